// What the page knows and does: the project, the open scan, and every action that a button or a key starts.

import { api, type Job, type Project, type Scan, type ScanTarget, type Target, type Verdict } from './api'
import { attempt, say } from './dom'
import { growCut } from './growcut'
import { planeOf, type Plane, type Viewer } from './viewer'

export type Heat = 'none' | 'probability' | 'doubt' | string

export class App {
  project: Project = { name: '', version: '', user: '', targets: [], folders: [] }
  scans: Scan[] = []
  jobs = new Map<string, Job>()
  open: Scan | null = null
  active = 1
  hidden = new Set<number>()
  heat: Heat = 'none'
  comparing = false
  loading = false
  window = 0 // which preset
  doubtBySlice: number[] = []
  heldBySlice: number[] = []
  changed: () => void = () => undefined
  private saved: Uint8Array | null = null
  private saving: Promise<unknown> = Promise.resolve()
  private shown = new Map<string, string>()

  constructor(readonly viewer: Viewer) {
    viewer.onStroke = (plane) => this.stroke(plane)
  }

  async start(): Promise<void> {
    this.project = await api.project()
    this.scans = await api.scans()
    for (const job of await api.jobs()) this.jobs.set(job.id, job)
    this.active = this.project.targets[0]?.id ?? 1
    this.colors()
    void api.listen(
      (kind, content) => this.heard(kind, content),
      () => void attempt(() => this.refresh())
    )
    const last = sessionStorage.getItem('latentseg-scan')
    const first = this.scans.find((scan) => scan.id === last) ?? this.scans[0]
    if (first) await this.openScan(first.id)
    this.changed()
  }

  async refresh(): Promise<void> {
    this.project = await api.project()
    this.scans = await api.scans()
    this.jobs = new Map((await api.jobs()).map((job) => [job.id, job]))
    this.colors()
    if (this.open) {
      this.open = this.scans.find((scan) => scan.id === this.open!.id) ?? null
      if (!this.open) this.viewer.close()
    }
    this.changed()
  }

  get target(): Target | undefined {
    return this.project.targets.find((target) => target.id === this.active)
  }

  row(target = this.active, scan = this.open): ScanTarget | undefined {
    return scan?.targets.find((row) => row.target === target)
  }

  /** The job that works or waits for the open scan. */
  get job(): Job | undefined {
    const here = [...this.jobs.values()].filter((job) => job.scan === this.open?.id && isOpen(job))
    return here.find((job) => job.state === 'running') ?? here[0]
  }

  async openScan(id: string): Promise<void> {
    const scan = this.scans.find((one) => one.id === id)
    if (!scan || this.loading) return
    await this.saving
    this.loading = true
    this.open = scan
    this.heat = 'none'
    this.comparing = false
    this.window = 0
    this.saved = null
    this.changed()
    try {
      await this.viewer.open(await api.image(id), scan.name, scan.window)
      this.viewer.goTo(Math.floor(scan.shape[2] / 2))
      sessionStorage.setItem('latentseg-scan', id)
      for (const target of this.project.targets) await this.reload(target.id)
      this.colors()
      const z = this.row()?.worst_slice ?? this.row()?.drawn[0] ?? -1
      if (z >= 0) this.viewer.goTo(z)
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), 'error')
    } finally {
      this.loading = false
      this.changed()
    }
  }

  /** Ask for what stands of a target, and show it. */
  async reload(target: number): Promise<void> {
    const row = this.row(target)
    if (!this.open || !row) return
    if (row.found || row.drawn.length) this.viewer.put(target, await api.mask(this.open.id, target))
    else this.viewer.put(target, { box: [0, 0, 0, 0, 0, 0], voxels: new Uint8Array() })
    this.shown.set(`${this.open.id}/${target}`, row.at ?? '')
    this.saved = this.viewer.bitmap?.slice() ?? null
    if (target === this.active) await this.reloadProfile()
  }

  async reloadProfile(): Promise<void> {
    const row = this.row()
    this.doubtBySlice = []
    this.heldBySlice = []
    if (this.open && row?.found) {
      const profile = await api.profile(this.open.id, this.active)
      this.doubtBySlice = profile.doubt
      this.heldBySlice = profile.held
    }
    this.changed()
  }

  /** Take the open scan out of the project. */
  async remove(): Promise<void> {
    const scan = this.open
    if (!scan) return
    await this.saving
    await api.removeScan(scan.id)
    this.open = null
    this.viewer.close()
    await this.refresh()
    const next = this.ranked()[0]
    if (next) await this.openScan(next.id)
    say(`Removed ${scan.name} from the project.`)
  }

  choose(target: number): void {
    if (!this.project.targets.some((one) => one.id === target)) return
    this.active = target
    this.viewer.label = target
    this.viewer.use(this.viewer.tool)
    if (this.heat !== 'none') void this.showHeat(this.heat)
    void attempt(() => this.reloadProfile())
    this.changed()
  }

  colors(): void {
    const shown = this.project.targets.map((one) => [one.id, { color: one.color, shown: !this.hidden.has(one.id) }] as const)
    this.viewer.paint(new Map(shown))
    this.viewer.label = this.active
  }

  toggle(target: number): void {
    if (!this.hidden.delete(target)) this.hidden.add(target)
    this.colors()
    this.changed()
  }

  // -- drawing

  /** A stroke ended: keep the slices that it changed. */
  stroke(plane: Plane): void {
    const bitmap = this.viewer.bitmap
    if (!bitmap || !this.saved || !this.open) return
    const changed = this.changedSlices(bitmap, this.saved, plane)
    if (changed.length) this.keep(changed, this.viewer.tool === 'erase')
  }

  /** Draw one slice from outside of a stroke. */
  drawSlice(z: number, slice: Uint8Array): void {
    this.viewer.putSlice(this.active, z, slice)
    this.keep([z])
  }

  private changedSlices(bitmap: Uint8Array, before: Uint8Array, plane: Plane): number[] {
    const [nx, ny, nz] = this.viewer.shape
    const differs = (a: Uint8Array, b: Uint8Array) => a.some((value, at) => value !== b[at])
    if (plane.axis === 2) {
      const own = [planeOf(bitmap, [nx, ny, nz], plane), planeOf(before, [nx, ny, nz], plane)]
      return differs(own[0], own[1]) ? [plane.index] : []
    }
    const now = planeOf(bitmap, [nx, ny, nz], plane)
    const then = planeOf(before, [nx, ny, nz], plane)
    const row = now.length / nz
    return Array.from({ length: nz }, (_, z) => z).filter((z) =>
      differs(now.subarray(z * row, (z + 1) * row), then.subarray(z * row, (z + 1) * row))
    )
  }

  private keep(slices: number[], erasing = false): void {
    const scan = this.open!
    const target = this.active
    const area = this.viewer.shape[0] * this.viewer.shape[1]
    const voxels = new Uint8Array(area * slices.length)
    slices.forEach((z, n) => {
      const now = this.viewer.bitmap!.subarray(z * area, (z + 1) * area)
      const before = this.saved!.subarray(z * area, (z + 1) * area)
      if (erasing) {
        // the eraser takes the active target alone
        for (let at = 0; at < area; at++) if (before[at] !== now[at] && before[at] !== target) now[at] = before[at]
        this.viewer.nv.upload({ axis: 2, index: z })
      }
      before.set(now)
      voxels.set(this.viewer.sliceOf(target, z), n * area)
    })
    this.saving = this.saving.then(() =>
      attempt(async () => this.took(await api.draw(scan.id, target, slices, voxels)))
    )
  }

  async undo(): Promise<void> {
    await this.saving
    if (!this.open) return
    const undone = await api.undo(this.open.id)
    if (undone.target === null) return say('There is nothing to undo in this scan.')
    await this.refresh()
    await this.reload(undone.target)
    if (undone.slices.length) this.viewer.goTo(undone.slices[Math.floor(undone.slices.length / 2)])
    say(`Took back the drawing on ${slicesInWords(undone.slices)}.`)
  }

  /** Grow what is painted on this slice over pixels that are alike. */
  grow(): void {
    if (!this.viewer.bitmap) return
    const z = this.viewer.slice
    const [nx, ny] = this.viewer.shape
    const painted = this.viewer.sliceOf(this.active, z)
    if (!painted.some(Boolean)) return say('Paint a little inside the structure first; growing starts from there.')
    const area = nx * ny
    const all = this.viewer.bitmap.subarray(z * area, (z + 1) * area)
    const others = all.map((value) => (value && value !== this.active ? 1 : 0))
    this.drawSlice(z, growCut(painted, others, this.viewer.greys(z), nx))
  }

  /** Put a dab of the brush at the crosshair: painting by keyboard. */
  dab(erase: boolean): void {
    if (!this.viewer.bitmap) return
    const [x, y, z] = this.viewer.voxel()
    const [nx, ny] = this.viewer.shape
    const slice = this.viewer.sliceOf(this.active, z)
    const radius = Math.max(1, Math.round(this.viewer.penSize / 2))
    for (let j = Math.max(0, y - radius); j <= Math.min(ny - 1, y + radius); j++) {
      for (let i = Math.max(0, x - radius); i <= Math.min(nx - 1, x + radius); i++) {
        if ((i - x) ** 2 + (j - y) ** 2 <= radius ** 2) slice[j * nx + i] = erase ? 0 : 1
      }
    }
    this.drawSlice(z, slice)
  }

  async interpolate(): Promise<void> {
    await this.saving
    if (!this.open) return
    this.took(await api.interpolate(this.open.id, this.active))
    await this.reload(this.active)
    say('Filled the slices between those that you drew.', 'good')
  }

  /** Say that this slice is right as it is, or give it back to the model. */
  async check(): Promise<void> {
    if (!this.open || !this.viewer.bitmap) return
    const z = this.viewer.slice
    await this.saving
    if (this.row()?.drawn.includes(z)) {
      this.took(await api.forget(this.open.id, this.active, [z]))
      await this.reload(this.active)
      say(`Slice ${z + 1} is the model's again.`)
    } else {
      this.drawSlice(z, this.viewer.sliceOf(this.active, z))
      say(`Slice ${z + 1} is checked: the model keeps it as it is.`, 'good')
    }
  }

  // -- work

  async find(everywhere: boolean): Promise<void> {
    await this.saving
    if (!this.open || !this.target) return say('Open a scan and add a target first.')
    const open = this.scans.filter((scan) => this.row(this.active, scan)?.verdict === 'none').map((scan) => scan.id)
    const scans = everywhere ? [this.open.id, ...open.filter((id) => id !== this.open!.id)] : [this.open.id]
    this.asked(await api.find(scans, [this.active]))
    if (everywhere) say(`${scans.length} scans are searched for ${this.target.name}, this one first.`)
    this.changed()
  }

  async findAllTargets(): Promise<void> {
    await this.saving
    if (!this.open) return
    const shown = this.project.targets.filter(
      (target) => target.prompt || this.scans.some((scan) => hasExample(this.row(target.id, scan)))
    )
    this.asked(await api.find([this.open.id], shown.map((target) => target.id)))
    this.changed()
  }

  async stop(): Promise<void> {
    if (this.job) await api.stop(this.job.id)
  }

  async judge(verdict: Verdict): Promise<void> {
    await this.saving
    if (!this.open || !this.target) return
    const said = this.row()?.verdict === verdict ? 'none' : verdict
    const answer = await api.judge(this.open.id, this.active, said)
    this.took(answer.scan)
    if (answer.jobs.length) say(`Accepted. ${answer.jobs.length} other scans are searched again with it.`, 'good')
    else if (said === 'accepted') say('Accepted.', 'good')
  }

  async next(): Promise<void> {
    const open = this.ranked().filter((scan) => scan.doubt !== null && scan.id !== this.open?.id)
    if (!open.length) return say('Every scan is judged.', 'good')
    await this.openScan(open[0].id)
  }

  ranked(): Scan[] {
    return [...this.scans].sort((a, b) => (b.doubt ?? -1) - (a.doubt ?? -1) || a.name.localeCompare(b.name))
  }

  worst(): void {
    const z = this.row()?.worst_slice ?? -1
    if (z < 0) return say('Nothing is in doubt here.')
    this.viewer.goTo(z)
  }

  // -- what is shown over the scan

  async showHeat(heat: Heat): Promise<void> {
    this.heat = heat
    if (heat === 'none' || !this.open || !this.row()?.found) {
      if (heat !== 'none') say('Press find first: there is nothing to show yet.')
      this.heat = 'none'
      await this.viewer.overlay(null)
    } else if (heat === 'probability' || heat === 'doubt') {
      await this.viewer.overlay(await api.probability(this.open.id, this.active, heat === 'doubt'))
    } else {
      await this.viewer.overlay(await api.evidence(this.open.id, this.active, heat), 'warm', true)
    }
    this.changed()
  }

  async compare(): Promise<void> {
    if (!this.open) return
    this.comparing = !this.comparing
    if (this.comparing) {
      try {
        const [before, after] = [await api.mask(this.open.id, this.active, true), await api.mask(this.open.id, this.active)]
        this.viewer.use('look')
        this.viewer.compare(this.active, before, after)
        const found = await api.compare(this.open.id, this.active)
        const change = `${found.before_ml.toFixed(1)} ml before, ${found.after_ml.toFixed(1)} ml now`
        say(`Dice of both ${found.dice.toFixed(3)}; ${change}. Blue: only before. Orange: only now.`)
      } catch (error) {
        this.comparing = false
        throw error
      }
    } else {
      this.viewer.bitmap?.fill(0)
      for (const target of this.project.targets) await this.reload(target.id)
    }
    this.changed()
  }

  // -- what the server tells

  /** A row of the list is newer. */
  took(scan: Scan): void {
    const at = this.scans.findIndex((one) => one.id === scan.id)
    if (at < 0) this.scans.push(scan)
    else this.scans[at] = scan
    if (this.open?.id === scan.id) this.open = scan
    this.changed()
  }

  private heard(kind: string, content: unknown): void {
    if (kind === 'project') void attempt(() => this.refresh())
    if (kind === 'scan') void attempt(() => this.heardScan(content as Scan))
    if (kind === 'job') this.heardJob(content as Job)
  }

  private async heardScan(scan: Scan): Promise<void> {
    this.took(scan)
    if (this.open?.id !== scan.id || this.loading || this.comparing) return
    for (const row of scan.targets) {
      const newer = row.found && this.shown.get(`${scan.id}/${row.target}`) !== (row.at ?? '')
      if (!newer) continue
      await this.saving
      await this.reload(row.target)
      if (row.target === this.active && this.heat !== 'none') await this.showHeat(this.heat)
    }
  }

  /** Jobs that were asked for; of those that events told of before the answer came, the events know more. */
  private asked(jobs: Job[]): void {
    for (const job of jobs) if (!this.jobs.has(job.id)) this.jobs.set(job.id, job)
  }

  private heardJob(job: Job): void {
    const before = this.jobs.get(job.id)
    this.jobs.set(job.id, job)
    const here = job.scan === this.open?.id
    if (here && before?.state !== job.state) {
      if (job.state === 'failed' && job.error) say(job.error.sentence.replace(/^E\d{3} /, ''), 'error')
      if (job.state === 'stopped') say('Stopped.')
      if (job.state === 'done' && job.warnings.length) say(job.warnings[0])
    }
    this.changed()
  }
}

export function isOpen(job: Job): boolean {
  return job.state === 'queued' || job.state === 'running'
}

function hasExample(row: ScanTarget | undefined): boolean {
  return !!row && (row.drawn.length > 0 || row.verdict === 'accepted')
}

function slicesInWords(slices: number[]): string {
  return slices.length === 1 ? `slice ${slices[0] + 1}` : `${slices.length} slices`
}
