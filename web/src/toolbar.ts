// The row of tools, and the keys that do the same.

import type { App, Heat } from './app'
import { attempt, button, byId, el, update } from './dom'
import { showKeys } from './panels'
import type { Layout, Tool } from './viewer'

const TOOLS: [Tool, string, string][] = [
  ['look', 'Look', 'V'],
  ['draw', 'Brush', 'B'],
  ['fill', 'Outline', 'F'],
  ['erase', 'Erase', 'E'],
  ['measure', 'Ruler', 'M: drag a line']
]
const LAYOUTS: [Layout, string][] = [
  ['planes', 'Planes'],
  ['all', 'Planes, 3-D'],
  ['axial', 'Axial'],
  ['coronal', 'Coronal'],
  ['sagittal', 'Sagittal'],
  ['volume', '3-D']
]
const WINDOWS: [string, [number, number] | null][] = [
  ['As opened', null],
  ['Soft tissue', [-125, 275]],
  ['Liver', [-15, 155]],
  ['Lung', [-1350, 150]],
  ['Bone', [-500, 1300]],
  ['Brain', [0, 80]]
]
const SIZES = [1, 3, 5, 9, 15, 25, 41]

export class Toolbar {
  size = 9
  layout = 0

  constructor(readonly app: App) {
    this.app.viewer.pen(this.size)
    document.addEventListener('keydown', (event) => this.key(event))
  }

  render(): void {
    const { app } = this
    const tools = TOOLS.map(([tool, name, key]) =>
      button(name, () => this.use(tool), {
        id: `tool-${tool}`, title: key, 'aria-pressed': app.viewer.tool === tool ? 'true' : 'false'
      })
    )
    const size = el('select', { 'aria-label': 'Size of the brush', title: '[ and ]', onchange: (event) => this.pen(Number((event.target as HTMLSelectElement).value)) },
      ...SIZES.map((one) => el('option', { value: one, selected: one === this.size }, `${one} px`)))
    update(byId('tools'),
      el('span', { class: 'group' }, ...tools),
      size,
      el('span', { class: 'group' },
        button('Grow', () => app.grow(), { id: 'grow', title: 'G: over pixels that are alike' }),
        button('Between', () => void attempt(() => app.interpolate()), { id: 'between', title: 'I: fill slices between drawn ones' }),
        button('Undo', () => void attempt(() => app.undo()), { id: 'undo', title: 'Z' })))
    update(byId('view-tools'), this.windows(), this.layouts(), this.heats(), this.opacity(), this.theme(), button('?', showKeys, { title: 'Keys', 'aria-label': 'Keys' }))
  }

  private windows(): HTMLElement {
    const choices = WINDOWS.filter(([, range]) => range === null || this.app.open?.modality === 'CT')
    return el('select', { id: 'window', 'aria-label': 'Window', onchange: (event) => this.useWindow(Number((event.target as HTMLSelectElement).value)) },
      ...choices.map(([name], at) => el('option', { value: at, selected: at === this.app.window }, name)))
  }

  private layouts(): HTMLElement {
    return el('select', { id: 'layout', 'aria-label': 'Layout', title: 'L', onchange: (event) => this.useLayout(Number((event.target as HTMLSelectElement).value)) },
      ...LAYOUTS.map(([, name], at) => el('option', { value: at, selected: at === this.layout }, name)))
  }

  private heats(): HTMLElement {
    const show = (event: Event) => void attempt(() => this.app.showHeat((event.target as HTMLSelectElement).value as Heat))
    const choices: [Heat, string][] = [['none', 'Mask'], ['probability', 'Probability'], ['doubt', 'Doubt']]
    return el('select', { id: 'heat', 'aria-label': 'Shown over the scan', title: 'D', onchange: show },
      ...choices.map(([heat, name]) => el('option', { value: heat, selected: heat === this.app.heat }, name)))
  }

  private opacity(): HTMLElement {
    const change = (event: Event) => this.app.viewer.opacity(Number((event.target as HTMLInputElement).value) / 100)
    return el('input', {
      type: 'range', min: 0, max: 100, value: Math.round(this.app.viewer.nv.drawOpacity * 100), 'aria-label': 'Opacity of masks', title: 'Opacity of masks', oninput: change
    })
  }

  private theme(): HTMLElement {
    const dark = document.documentElement.dataset.theme !== 'light'
    return button('◐', () => {
      useTheme(dark ? 'light' : 'dark', this.app)
      this.render()
    }, { id: 'theme', title: dark ? 'Light' : 'Dark', 'aria-label': dark ? 'Light theme' : 'Dark theme' })
  }

  use(tool: Tool): void {
    this.app.viewer.use(tool)
    this.render()
  }

  pen(size: number): void {
    this.size = size
    this.app.viewer.pen(size)
    this.render()
  }

  useWindow(at: number): void {
    this.app.window = at
    const [low, high] = WINDOWS[at][1] ?? this.app.open?.window ?? [0, 1]
    this.app.viewer.window(low, high)
    this.render()
  }

  useLayout(at: number): void {
    this.layout = at
    this.app.viewer.layout(LAYOUTS[at][0])
    this.render()
  }

  private key(event: KeyboardEvent): void {
    const on = event.target as HTMLElement
    const writing = on.matches('input:not([type=range]), textarea, select') || byId<HTMLDialogElement>('dialog').open
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return
    if (event.key === 'Enter' && on.matches('button, summary, a')) return
    const action = this.actions()[(event.shiftKey && event.key.length > 1 ? 'Shift ' : '') + event.key]
    if (!action) return
    event.preventDefault()
    event.stopPropagation()
    action()
  }

  private actions(): Record<string, () => void> {
    const { app } = this
    const { viewer } = app
    const step = (by: number) => SIZES[Math.min(Math.max(SIZES.indexOf(this.size) + by, 0), SIZES.length - 1)]
    const later = (work: () => Promise<unknown>) => () => void attempt(work)
    const heat = (kind: Heat) => later(() => app.showHeat(app.heat === kind ? 'none' : kind))
    const targets = Object.fromEntries(app.project.targets.slice(0, 9).map((one, at) => [String(at + 1), () => app.choose(one.id)]))
    return {
      ...targets,
      Enter: later(() => app.find(false)),
      'Shift Enter': later(() => app.find(true)),
      ArrowLeft: () => viewer.move(1, 0, 0), // the patient's right is on the left
      ArrowRight: () => viewer.move(-1, 0, 0),
      ArrowUp: () => viewer.move(0, 1, 0),
      ArrowDown: () => viewer.move(0, -1, 0),
      PageUp: () => viewer.move(0, 0, 1),
      PageDown: () => viewer.move(0, 0, -1),
      b: () => this.use('draw'),
      f: () => this.use('fill'),
      e: () => this.use('erase'),
      v: () => this.use('look'),
      m: () => this.use('measure'),
      p: () => app.dab(false),
      P: () => app.dab(true),
      '[': () => this.pen(step(-1)),
      ']': () => this.pen(step(1)),
      g: () => app.grow(),
      i: later(() => app.interpolate()),
      c: later(() => app.check()),
      z: later(() => app.undo()),
      a: later(() => app.judge('accepted')),
      r: later(() => app.judge('rejected')),
      w: () => app.worst(),
      W: () => this.useWindow((app.window + 1) % (app.open?.modality === 'CT' ? WINDOWS.length : 1)),
      n: later(() => app.next()),
      o: () => app.toggle(app.active),
      d: heat('probability'),
      D: heat('doubt'),
      l: () => this.useLayout((this.layout + 1) % LAYOUTS.length),
      '?': showKeys
    }
  }
}

export function useTheme(theme: 'light' | 'dark', app: App): void {
  document.documentElement.dataset.theme = theme
  localStorage.setItem('latentseg-theme', theme)
  app.changed()
}
