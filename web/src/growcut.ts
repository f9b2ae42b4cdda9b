// Grow-cut on one slice (Vezhnevets and Konouchine, 2005): what was painted grows over pixels that are alike, against a
// frame of background around it.

const ROUNDS = 200
const FRAME = 0.6 // of the size of what was painted, on each side

/**
 * Grow what is painted on a slice.
 *
 * @param painted bytes 0 and 1, rows of nx pixels
 * @param others bytes: what belongs to something else, and stays with it
 * @param greys the slice
 * @returns bytes 0 and 1
 */
export function growCut(painted: Uint8Array, others: Uint8Array, greys: Float32Array, nx: number): Uint8Array {
  const ny = painted.length / nx
  const box = boxAround(painted, nx, ny)
  if (!box) return painted
  const [x0, x1, y0, y1] = box
  const w = x1 - x0
  const h = y1 - y0
  let label = new Uint8Array(w * h)
  let strength = new Float32Array(w * h)
  const grey = new Float32Array(w * h)
  let low = Infinity
  let high = -Infinity
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const at = y * w + x
      const from = (y + y0) * nx + x + x0
      grey[at] = greys[from]
      low = Math.min(low, grey[at])
      high = Math.max(high, grey[at])
      const edge = x === 0 || y === 0 || x === w - 1 || y === h - 1
      label[at] = painted[from] ? 1 : edge || others[from] ? 2 : 0
      strength[at] = label[at] ? 1 : 0
    }
  }
  const scale = 1 / Math.max(high - low, 1e-6)
  for (let round = 0; round < ROUNDS; round++) {
    const next = label.slice()
    const stronger = strength.slice()
    let changed = false
    for (let y = 1; y < h - 1; y++) {
      for (let x = 1; x < w - 1; x++) {
        const at = y * w + x
        for (const by of [-1, 1, -w, w]) {
          const from = at + by
          if (!label[from]) continue
          const likeness = 1 - Math.min(1, Math.abs(grey[at] - grey[from]) * scale * 2)
          const force = likeness * likeness * strength[from]
          if (force > stronger[at] + 1e-4) {
            stronger[at] = force
            next[at] = label[from]
            changed = true
          }
        }
      }
    }
    label = next
    strength = stronger
    if (!changed) break
  }
  const grown = painted.slice()
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) if (label[y * w + x] === 1) grown[(y + y0) * nx + x + x0] = 1
  return grown
}

function boxAround(painted: Uint8Array, nx: number, ny: number): [number, number, number, number] | null {
  let [x0, x1, y0, y1] = [nx, -1, ny, -1]
  painted.forEach((value, at) => {
    if (!value) return
    const x = at % nx
    const y = Math.floor(at / nx)
    x0 = Math.min(x0, x)
    x1 = Math.max(x1, x)
    y0 = Math.min(y0, y)
    y1 = Math.max(y1, y)
  })
  if (x1 < 0) return null
  const more = Math.ceil(Math.max(x1 - x0, y1 - y0) * FRAME) + 4
  return [Math.max(0, x0 - more), Math.min(nx, x1 + more + 1), Math.max(0, y0 - more), Math.min(ny, y1 + more + 1)]
}
