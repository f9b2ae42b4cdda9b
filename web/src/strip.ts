// The strip below the scan: every axial slice, what was drawn and found on it, and where the model doubts.

import type { App } from './app'
import { byId } from './dom'

export class Strip {
  private canvas = byId<HTMLCanvasElement>('strip')
  private input = byId<HTMLInputElement>('slice')
  private number = byId<HTMLOutputElement>('slice-number')

  constructor(readonly app: App) {
    this.input.addEventListener('input', () => app.viewer.goTo(Number(this.input.value)))
    new ResizeObserver(() => this.render()).observe(this.canvas)
  }

  render(): void {
    const { app, canvas } = this
    const slices = app.open?.shape[2] ?? 0
    const z = app.viewer.slice
    this.input.max = String(Math.max(slices - 1, 0))
    this.input.value = String(z)
    this.input.disabled = slices < 2
    this.number.textContent = slices ? `${z + 1} / ${slices}` : ''
    const ratio = devicePixelRatio
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio]
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
    const ink = canvas.getContext('2d')!
    ink.clearRect(0, 0, width, height)
    if (!slices) return
    const style = getComputedStyle(document.documentElement)
    const color = app.target?.color ?? '#888'
    const row = app.row()
    const drawn = new Set(row?.drawn)
    const step = width / slices
    for (let k = 0; k < slices; k++) {
      const x = k * step
      const w = Math.max(step - (step > 3 ? 1 : 0), 1)
      ink.globalAlpha = 1
      ink.fillStyle = style.getPropertyValue('--line')
      ink.fillRect(x, height * 0.55, w, height * 0.45)
      if (app.heldBySlice[k]) {
        ink.globalAlpha = 0.45
        ink.fillStyle = color
        ink.fillRect(x, height * 0.55, w, height * 0.45)
      }
      if (drawn.has(k)) this.drawn(ink, x, w, color, app.viewer.holds(app.active, k))
      const doubt = app.doubtBySlice[k] ?? 0
      if (doubt > 0) {
        ink.globalAlpha = 1
        ink.fillStyle = style.getPropertyValue('--doubt')
        const tall = height * 0.36 * Math.min(1, doubt / 100)
        ink.fillRect(x, height * 0.36 - tall, w, tall)
      }
    }
    ink.globalAlpha = 1
    ink.fillStyle = style.getPropertyValue('--text')
    ink.fillRect(z * step + step / 2 - ratio, 0, 2 * ratio, height)
  }

  /** A slice that a person drew is full; one that they emptied is hollow. */
  private drawn(ink: CanvasRenderingContext2D, x: number, w: number, color: string, full: boolean): void {
    const height = ink.canvas.height
    ink.globalAlpha = 1
    ink.fillStyle = ink.strokeStyle = color
    if (full) ink.fillRect(x, height * 0.4, w, height * 0.6)
    else ink.strokeRect(x + 0.5, height * 0.4 + 0.5, Math.max(w - 1, 1), height * 0.6 - 1)
  }
}
