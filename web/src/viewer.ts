// NiiVue, wrapped: drawings are uploaded to the graphics card plane by plane, and strokes are told with their slices.

import { cmapper, DRAG_MODE, Niivue, NVImage, SHOW_RENDER } from '@niivue/niivue'
import type { Mask } from './api'

export type Layout = 'planes' | 'axial' | 'coronal' | 'sagittal' | 'volume' | 'all'
export type Tool = 'look' | 'draw' | 'fill' | 'erase' | 'measure'

/** Where a stroke was: a plane of the view frame. */
export interface Plane {
  axis: 0 | 1 | 2
  index: number
}

const ONLY_BEFORE = 250
const ONLY_AFTER = 251
const DRAW_UNIT = 33991 // gl.TEXTURE7, where NiiVue keeps the drawing
const GRADIENT_UNITS = [33990, 33992] // gl.TEXTURE6 and 8, where it makes the gradient of a volume

class Canvas3D extends Niivue {
  strokeEnded: (plane: Plane) => void = () => undefined
  private plane: Plane | null = null

  /** The plane of the stroke that is under way. */
  stroke(): Plane | null {
    const axis = [2, 1, 0][this.drawPenAxCorSag] as 0 | 1 | 2 | undefined
    if (axis === undefined || Number.isNaN(this.drawPenLocation[0])) return null
    return { axis, index: this.drawPenLocation[axis] }
  }

  override refreshDrawing(isForceRedraw = true, useClickToSegmentBitmap = false): void {
    const plane = this.stroke() ?? this.plane
    if (plane && this.drawBitmap && !this.opts.is2DSliceShader) {
      this.upload(plane)
      if (isForceRedraw) this.drawScene()
    } else {
      super.refreshDrawing(isForceRedraw, useClickToSegmentBitmap)
    }
  }

  override drawAddUndoBitmap(): void {
    const plane = this.stroke()
    if (!plane) return
    this.plane = plane
    this.strokeEnded(plane)
    this.plane = null
  }

  /** The gradient lights renderings, which are shown without: a pixel of each plane is enough of it. */
  override rgbaTex(texture: WebGLTexture | null, unit: number, dims: number[], isInit?: boolean): WebGLTexture | null {
    return super.rgbaTex(texture, unit, GRADIENT_UNITS.includes(unit) ? [dims[0], 1, 1, dims[3]] : dims, isInit)
  }

  /** Send one plane of the drawing to the graphics card; all of it would take a tenth of a second and more. */
  upload(plane: Plane): void {
    const [, nx, ny, nz] = this.back!.dims!
    const size = [nx, ny, nz]
    const offset = [0, 0, 0]
    size[plane.axis] = 1
    offset[plane.axis] = plane.index
    const gl = this.gl
    gl.activeTexture(DRAW_UNIT)
    gl.bindTexture(gl.TEXTURE_3D, this.drawTexture)
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1)
    const voxels = planeOf(this.drawBitmap!, [nx, ny, nz], plane)
    gl.texSubImage3D(
      gl.TEXTURE_3D, 0, offset[0], offset[1], offset[2], size[0], size[1], size[2], gl.RED, gl.UNSIGNED_BYTE, voxels
    )
  }

  /** Send the axial planes from one to another, both included, to the graphics card. */
  uploadBetween(first: number, last: number): void {
    for (let index = first; index <= last; index++) this.upload({ axis: 2, index })
    if (last >= first) this.drawScene()
  }
}

export function planeOf(bitmap: Uint8Array, shape: number[], plane: Plane): Uint8Array {
  const [nx, ny, nz] = shape
  const area = nx * ny
  if (plane.axis === 2) return bitmap.subarray(plane.index * area, (plane.index + 1) * area)
  if (plane.axis === 1) {
    const rows = new Uint8Array(nx * nz)
    for (let z = 0; z < nz; z++) {
      const start = z * area + plane.index * nx
      rows.set(bitmap.subarray(start, start + nx), z * nx)
    }
    return rows
  }
  const columns = new Uint8Array(ny * nz)
  for (let z = 0, at = 0; z < nz; z++) {
    for (let y = 0; y < ny; y++) columns[at++] = bitmap[z * area + y * nx + plane.index]
  }
  return columns
}

export class Viewer {
  readonly nv: Canvas3D
  shape: [number, number, number] = [0, 0, 0]
  tool: Tool = 'look'
  label = 1
  penSize = 9
  onStroke: (plane: Plane) => void = () => undefined
  onPlace: (voxel: [number, number, number], value: number) => void = () => undefined

  constructor(readonly canvas: HTMLCanvasElement) {
    this.nv = new Canvas3D({
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      dragAndDropEnabled: false,
      dragMode: DRAG_MODE.windowing, // with the right button, as on reading stations
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      maxDrawUndoBitmaps: 1,
      crosshairWidth: 0.12,
      crosshairWidthUnit: 'percent',
      crosshairColor: [0.35, 0.75, 1, 0.7],
      backColor: [0.02, 0.024, 0.03, 1], // dark in both themes, as films are read
      fontColor: [0.75, 0.78, 0.82, 1],
      fontSizeScaling: 0.3,
      show3Dcrosshair: true,
      loadingText: '',
      logLevel: 'error',
      viewModeHotKey: '',
      clipPlaneHotKey: '',
      cycleClipPlaneHotKey: ''
    })
    this.nv.strokeEnded = (plane) => this.onStroke(plane)
    this.nv.onLocationChange = (raw) => {
      const place = raw as { vox: number[]; values: { value: number }[] }
      const [x, y, z] = place.vox.map((v) => Math.round(v))
      this.onPlace([x, y, z], place.values[0]?.value ?? NaN)
    }
  }

  async attach(): Promise<void> {
    await this.nv.attachToCanvas(this.canvas)
    this.layout('planes')
  }

  async open(bytes: ArrayBuffer, name: string, window: [number, number]): Promise<void> {
    this.close()
    const [cal_min, cal_max] = window
    this.nv.addVolume(await NVImage.loadFromUrl({ url: bytes, name: `${name}.nii`, colormap: 'gray', cal_min, cal_max }))
    const [, nx, ny, nz] = this.nv.back!.dims!
    this.shape = [nx, ny, nz]
    this.nv.createEmptyDrawing()
    this.nv.setDrawOpacity(0.45)
    this.use(this.tool)
  }

  close(): void {
    if (this.nv.drawBitmap) this.nv.closeDrawing()
    this.nv.clearAllMeasurements()
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0)
    this.shape = [0, 0, 0]
  }

  get bitmap(): Uint8Array | null {
    return this.nv.drawBitmap
  }

  get slice(): number {
    const z = this.nv.scene.crosshairPos[2] * this.shape[2] - 0.5
    return Math.min(Math.max(Math.round(z), 0), Math.max(this.shape[2] - 1, 0))
  }

  goTo(z: number): void {
    if (!this.shape[2]) return
    const kept = Math.min(Math.max(z, 0), this.shape[2] - 1)
    this.nv.scene.crosshairPos[2] = (kept + 0.5) / this.shape[2]
    this.nv.drawScene()
    this.nv.createOnLocationChange()
  }

  goToVoxel(voxel: [number, number, number]): void {
    voxel.forEach((v, axis) => {
      this.nv.scene.crosshairPos[axis] = (v + 0.5) / this.shape[axis]
    })
    this.nv.drawScene()
    this.nv.createOnLocationChange()
  }

  move(x: number, y: number, z: number): void {
    this.nv.moveCrosshairInVox(x, y, z)
  }

  voxel(): [number, number, number] {
    const place = this.nv.frac2vox(this.nv.scene.crosshairPos)
    return [place[0], place[1], place[2]]
  }

  use(tool: Tool): void {
    this.tool = tool
    if (!this.nv.drawBitmap) return
    this.nv.opts.dragModePrimary = tool === 'measure' ? DRAG_MODE.measurement : DRAG_MODE.crosshair
    this.nv.setDrawingEnabled(tool !== 'look' && tool !== 'measure')
    this.pen(this.penSize)
    this.nv.setPenValue(tool === 'erase' ? 0 : this.label, tool === 'fill')
    this.canvas.style.cursor = tool === 'look' ? 'default' : 'crosshair'
  }

  pen(size: number): void {
    this.penSize = size
    this.nv.opts.penSize = this.tool === 'fill' ? 1 : size
  }

  layout(layout: Layout): void {
    const nv = this.nv
    const kinds = {
      axial: nv.sliceTypeAxial,
      coronal: nv.sliceTypeCoronal,
      sagittal: nv.sliceTypeSagittal,
      volume: nv.sliceTypeRender,
      planes: nv.sliceTypeMultiplanar,
      all: nv.sliceTypeMultiplanar
    }
    nv.setSliceType(kinds[layout])
    if (layout !== 'planes' && layout !== 'all') return nv.clearCustomLayout()
    const beside = [nv.sliceTypeCoronal, nv.sliceTypeSagittal, ...(layout === 'all' ? [nv.sliceTypeRender] : [])]
    const height = 1 / beside.length
    nv.setCustomLayout([
      { sliceType: nv.sliceTypeAxial, position: [0, 0, 0.62, 1] },
      ...beside.map((sliceType, at) => ({
        sliceType,
        position: [0.625, at * height, 0.375, height] as [number, number, number, number]
      }))
    ])
  }

  window(low: number, high: number): void {
    const image = this.nv.volumes[0]
    if (!image) return
    image.cal_min = low
    image.cal_max = high
    this.nv.updateGLVolume()
  }

  opacity(value: number): void {
    this.nv.setDrawOpacity(value)
  }

  paint(colors: Map<number, { color: string; shown: boolean }>): void {
    const lut = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ['nothing'] }
    for (let label = 1; label < 256; label++) {
      const own = label === ONLY_BEFORE ? '#5c9cf6' : label === ONLY_AFTER ? '#ffb74d' : colors.get(label)?.color
      const rgb = Number.parseInt((own ?? '#ff0000').slice(1), 16)
      lut.R.push(rgb >> 16)
      lut.G.push((rgb >> 8) & 255)
      lut.B.push(rgb & 255)
      lut.A.push(colors.get(label)?.shown === false ? 0 : 255)
      lut.I.push(label)
      lut.labels.push(String(label))
    }
    this.nv.drawLut = cmapper.makeDrawLut(lut)
    this.nv.refreshColormaps()
    if (this.nv.back) this.nv.drawScene()
  }

  /** Replace a target's voxels by a mask. */
  put(label: number, mask: Mask): void {
    const bitmap = this.nv.drawBitmap
    if (!bitmap) return
    const [nx, ny, nz] = this.shape
    const [x0, x1, y0, y1, z0, z1] = mask.box
    const some = x1 > x0 && y1 > y0 && z1 > z0
    let [first, last] = some ? [z0, z1 - 1] : [nz, -1]
    for (let z = 0; z < nz; z++) {
      const slice = bitmap.subarray(z * nx * ny, (z + 1) * nx * ny)
      const at = slice.indexOf(label)
      if (at < 0) continue
      for (let i = at; i < slice.length; i++) if (slice[i] === label) slice[i] = 0
      first = Math.min(first, z)
      last = Math.max(last, z)
    }
    this.each(mask, (at) => {
      bitmap[at] = label
    })
    this.nv.uploadBetween(first, last)
  }

  /** Show two masks over each other: what only the first has, what only the second has, and what both have. */
  compare(label: number, before: Mask, after: Mask): void {
    const bitmap = this.nv.drawBitmap
    if (!bitmap) return
    bitmap.fill(0)
    this.each(before, (at) => {
      bitmap[at] = ONLY_BEFORE
    })
    this.each(after, (at) => {
      bitmap[at] = bitmap[at] === ONLY_BEFORE ? label : ONLY_AFTER
    })
    this.nv.refreshDrawing(true)
  }

  /** One axial slice of a target, as bytes 0 and 1. */
  sliceOf(label: number, z: number): Uint8Array {
    const [nx, ny] = this.shape
    const slice = this.nv.drawBitmap!.slice(z * nx * ny, (z + 1) * nx * ny)
    return slice.map((value) => (value === label ? 1 : 0))
  }

  /** Whether an axial slice holds a target. */
  holds(label: number, z: number): boolean {
    const area = this.shape[0] * this.shape[1]
    return this.nv.drawBitmap?.subarray(z * area, (z + 1) * area).includes(label) ?? false
  }

  putSlice(label: number, z: number, slice: Uint8Array): void {
    const [nx, ny] = this.shape
    const bitmap = this.nv.drawBitmap!
    for (let at = 0; at < nx * ny; at++) {
      const here = z * nx * ny + at
      if (slice[at]) bitmap[here] = label
      else if (bitmap[here] === label) bitmap[here] = 0
    }
    this.nv.upload({ axis: 2, index: z })
    this.nv.drawScene()
  }

  /** Grey values of one axial slice, in the view frame. */
  greys(z: number): Float32Array {
    const [nx, ny] = this.shape
    const image = this.nv.back!.img!
    return Float32Array.from(image.subarray(z * nx * ny, (z + 1) * nx * ny) as ArrayLike<number>)
  }

  volumeMl(label: number, spacing: number[]): number {
    const bitmap = this.nv.drawBitmap
    if (!bitmap) return 0
    let count = 0
    for (let at = 0; at < bitmap.length; at++) if (bitmap[at] === label) count++
    return (count * spacing[0] * spacing[1] * spacing[2]) / 1000
  }

  async overlay(bytes: ArrayBuffer | null, colormap = 'inferno', signed = false): Promise<void> {
    while (this.nv.volumes.length > 1) this.nv.removeVolumeByIndex(1)
    if (!bytes) return
    const [low, high] = signed ? [NaN, NaN] : [20, 255]
    const about = { url: bytes, name: 'overlay.nii', colormap, opacity: 0.6, cal_min: low, cal_max: high }
    this.nv.addVolume(await NVImage.loadFromUrl(about))
    this.nv.setOpacity(1, 0.6)
  }

  /** Where a voxel is on the screen, in the plane that shows it largest; for tests. */
  point(voxel: [number, number, number]): [number, number] {
    const frac = voxel.map((v, axis) => (v + 0.5) / this.shape[axis])
    const [x, y] = this.nv.frac2canvasPos(frac as never) as [number, number]
    return [x / this.nv.uiData.dpr!, y / this.nv.uiData.dpr!]
  }

  private each(mask: Mask, visit: (at: number) => void): void {
    const [x0, x1, y0, y1, z0, z1] = mask.box
    const [nx, ny] = this.shape
    let at = 0
    for (let z = z0; z < z1; z++) {
      for (let y = y0; y < y1; y++) {
        const row = (z * ny + y) * nx
        for (let x = x0; x < x1; x++) if (mask.voxels[at++]) visit(row + x)
      }
    }
  }
}
