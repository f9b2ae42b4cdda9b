// The lists at the sides: scans by doubt, targets with what was found.

import { api, type Entry, type Scan, type ScanTarget, type Target } from './api'
import { isOpen, type App } from './app'
import { askFor, attempt, button, byId, duration, el, say, show, update } from './dom'
import { addFiles } from './files'

export function renderScans(app: App): void {
  const panel = byId('scans')
  const judged = app.scans.filter((scan) => scan.doubt === null).length
  const add = button('Add', () => void attempt(() => addScans(app)), { title: 'Open or upload scans' })
  const head = el('div', { class: 'panel-head' }, el('h2', {}, 'Scans'), el('span', { class: 'dim' }, count(app, judged)), add)
  const list = el('ul', { class: 'list' }, ...app.ranked().map((scan) => scanRow(app, scan)))
  const remove = button('Remove', () => void attempt(() => removeScan(app)), { id: 'remove', class: 'link' })
  const name = api.user() || app.project.user
  const user = button(name, () => void attempt(() => askUser(app, name)), { id: 'user', class: 'link', title: 'Your name, for the journal' })
  const foot = el('div', { class: 'panel-foot' }, el('div', {}, background(app)), el('div', { class: 'row' }, user, app.open ? remove : null))
  update(panel, head, list, foot)
}

function count(app: App, judged: number): string {
  return app.scans.length ? `${judged} of ${app.scans.length} judged` : ''
}

function background(app: App): string {
  const waiting = [...app.jobs.values()].filter((job) => isOpen(job))
  if (!waiting.length) return ''
  return `${waiting.length} ${waiting.length === 1 ? 'scan is' : 'scans are'} being searched`
}

function scanRow(app: App, scan: Scan): HTMLElement {
  const job = [...app.jobs.values()].find((one) => one.scan === scan.id && isOpen(one))
  const own = app.row(app.active, scan)
  const dots = app.project.targets.map((target) => dot(target, app.row(target.id, scan)))
  const text = job ? (job.state === 'running' ? `${job.stage} …` : 'waiting') : describe(scan, own)
  const open = () => void attempt(() => app.openScan(scan.id))
  const row = el(
    'button',
    { type: 'button', class: 'scan', onclick: open, 'aria-current': scan.id === app.open?.id ? 'true' : undefined },
    el('span', { class: 'name' }, scan.name),
    el('span', { class: 'dots' }, ...dots),
    el('span', { class: 'dim' }, text),
    job?.state === 'running' ? bar(job.fraction) : doubtBar(scan)
  )
  return el('li', {}, row)
}

function dot(target: Target, row: ScanTarget | undefined): HTMLElement {
  const verdict = row?.verdict ?? 'none'
  const state = verdict !== 'none' ? verdict : row?.found ? 'found' : row?.drawn.length ? 'drawn' : 'nothing'
  const mark = { accepted: '✓', rejected: '✕', found: '', drawn: '', nothing: '' }[state]
  return el('span', { class: `dot ${state}`, style: `--c:${target.color}`, title: `${target.name}: ${state}` }, mark)
}

function describe(scan: Scan, row: ScanTarget | undefined): string {
  const size = `${scan.modality === 'unknown' ? 'image' : scan.modality}, ${scan.shape[2]} slices`
  if (!row) return size
  if (row.verdict !== 'none') return row.verdict
  if (!row.found) return row.drawn.length ? `${row.drawn.length} drawn` : size
  const change = row.agreement === null || row.agreement > 0.995 ? '' : `changed ${Math.round((1 - row.agreement) * 100)} %, `
  return change + (row.why || (row.volume_ml ? 'looks sure' : 'absent'))
}

function doubtBar(scan: Scan): HTMLElement {
  const value = scan.doubt === null ? 0 : Math.min(1, scan.doubt / 1.5)
  const title = scan.doubt === null ? 'judged' : `doubt ${scan.doubt.toFixed(2)}`
  return el('span', { class: 'doubt', title }, el('span', { style: `width:${Math.round(value * 100)}%` }))
}

function bar(fraction: number): HTMLElement {
  return el('span', { class: 'bar' }, el('span', { style: `width:${Math.round(fraction * 100)}%` }))
}

export function renderTargets(app: App): void {
  const panel = byId('targets')
  const add = button('Add', () => void attempt(() => addTarget(app)), { title: 'Add a target' })
  const head = el('div', { class: 'panel-head' }, el('h2', {}, 'Targets'), add)
  const list = el('ul', { class: 'list' }, ...app.project.targets.map((target) => targetRow(app, target)))
  const none = el('p', { class: 'hint' }, 'Add a target, such as liver; then paint it on one slice and press Find.')
  update(panel, head, app.project.targets.length ? list : none, work(app), result(app), exports(app))
}

async function askUser(app: App, name: string): Promise<void> {
  const input = el('input', { name: 'user', value: name, required: true, maxlength: 64, autocomplete: 'name' })
  const hint = el('p', { class: 'dim' }, 'The journal of the project says who drew, accepted and rejected.')
  const form = await askFor('Your name', el('div', { class: 'form' }, el('label', {}, 'Name', input), hint), 'Keep')
  if (form) api.setUser(String(form.get('user')))
  app.changed()
}

async function removeScan(app: App): Promise<void> {
  const text = `Take ${app.open?.name} out of the project? Nothing is deleted: it goes to the folder “removed” of the project.`
  if (await askFor('Remove this scan', el('p', {}, text), 'Remove')) await app.remove()
}

async function changeTarget(app: App, target: Target): Promise<void> {
  const name = el('input', { name: 'name', value: target.name, required: true, maxlength: 100, autocomplete: 'off' })
  const color = el('input', { name: 'color', type: 'color', value: target.color })
  const body = el('div', { class: 'form' }, el('label', {}, 'Name', name), el('label', {}, 'Color', color))
  const form = await askFor('Change the target', body, 'Keep')
  if (!form) return
  await api.changeTarget(target.id, { name: String(form.get('name')), color: String(form.get('color')) })
  await app.refresh()
}

function targetRow(app: App, target: Target): HTMLElement {
  const row = app.row(target.id)
  const hidden = app.hidden.has(target.id)
  const eye = button(hidden ? '○' : '●', () => app.toggle(target.id), {
    class: 'eye',
    style: `color:${target.color}`,
    'aria-label': `${hidden ? 'Show' : 'Hide'} ${target.name}`,
    'aria-pressed': hidden ? 'false' : 'true'
  })
  const said = target.prompt ? `by words: ${target.prompt}` : `${target.code.meaning}${snomed(target)}`
  const name = el(
    'button',
    { type: 'button', class: 'target', onclick: () => app.choose(target.id), 'aria-current': target.id === app.active ? 'true' : undefined },
    el('span', { class: 'name' }, target.name),
    el('span', { class: 'dim' }, said),
    el('span', { class: 'value' }, row?.found ? volume(row) : '')
  )
  const change = button('⋯', () => void attempt(() => changeTarget(app, target)), {
    class: 'change', title: 'Name and color', 'aria-label': `Change ${target.name}`
  })
  return el('li', { class: 'target-row' }, eye, name, change)
}

function snomed(target: Target): string {
  return target.code.scheme === 'SCT' ? ` · SCT ${target.code.value}` : ''
}

function volume(row: ScanTarget): string {
  return row.volume_ml ? `${row.volume_ml.toFixed(row.volume_ml < 10 ? 2 : 0)} ml` : 'absent'
}

function work(app: App): HTMLElement {
  const job = app.job
  if (job) {
    const left = job.state === 'running' && job.seconds_left ? `about ${duration(job.seconds_left)} left` : ''
    return el(
      'section',
      { class: 'work' },
      el('div', { class: 'row' }, el('span', {}, job.stage), el('span', { class: 'dim' }, left)),
      bar(job.fraction),
      button('Stop', () => void attempt(() => app.stop()), { id: 'stop' })
    )
  }
  const ready = app.open && app.target
  return el(
    'section',
    { class: 'work' },
    button('Find in this scan', () => void attempt(() => app.find(false)), {
      id: 'find', class: 'primary', disabled: !ready, title: 'Enter'
    }),
    el(
      'div',
      { class: 'row pair' },
      button('In all scans', () => void attempt(() => app.find(true)), {
        id: 'find-all', disabled: !ready, title: 'Shift and Enter'
      }),
      app.project.targets.length > 1
        ? button('All targets', () => void attempt(() => app.findAllTargets()), { id: 'find-targets', disabled: !ready })
        : null
    )
  )
}

function result(app: App): HTMLElement {
  const row = app.row()
  if (!app.target || !row || (!row.found && !row.drawn.length)) return el('section')
  const facts = el('dl', {})
  const fact = (name: string, value: string) => facts.append(el('dt', {}, name), el('dd', {}, value))
  if (row.found) {
    fact('Volume', volume(row))
    fact('Presence', `${((row.presence ?? 0) * 100).toFixed(0)} %`)
    fact('Doubt', (row.doubt ?? 0).toFixed(2))
    if (row.why) facts.append(el('dd', { class: 'why' }, row.why))
    if (row.agreement !== null) fact('Dice with before', row.agreement.toFixed(2))
    if (row.seconds !== null) fact('Found in', duration(row.seconds))
  }
  fact('Drawn or checked', row.drawn.length === 1 ? '1 slice' : `${row.drawn.length} slices`)
  const judge = (verdict: 'accepted' | 'rejected', text: string, key: string) =>
    button(text, () => void attempt(() => app.judge(verdict)), {
      id: verdict, class: `verdict ${verdict}`, 'aria-pressed': row.verdict === verdict ? 'true' : 'false', title: key
    })
  const verdicts = el('div', { class: 'row' }, judge('accepted', 'Accept', 'A'), judge('rejected', 'Reject', 'R'))
  const more = el('div', { class: 'row wrap' })
  if (row.found) {
    more.append(button('Worst slice', () => app.worst(), { title: 'W' }))
    if (row.agreement !== null) {
      more.append(button(app.comparing ? 'End comparison' : 'Compare', () => void attempt(() => app.compare()), { id: 'compare' }))
    }
    if (app.target.prompt) for (const name of ['attention_map', 'pseudo_healthy', 'residual']) more.append(evidence(app, name))
  }
  return el('section', { class: 'result' }, el('h3', {}, app.target.name), facts, verdicts, more)
}

function evidence(app: App, name: string): HTMLElement {
  const on = app.heat === name
  return button(name.replace('_', ' '), () => void attempt(() => app.showHeat(on ? 'none' : name)), {
    'aria-pressed': on ? 'true' : 'false'
  })
}

function exports(app: App): HTMLElement {
  const scan = app.open
  const any = scan?.targets.some((row) => row.found || row.drawn.length)
  if (!scan || !any) return el('section')
  const save = (kind: string) => () =>
    void attempt(async () => say(`Saved ${await api.save(`/api/scans/${scan.id}/export/${kind}`)}.`, 'good'))
  return el(
    'section',
    { class: 'exports' },
    el('h3', {}, 'Take away'),
    el(
      'div',
      { class: 'row wrap' },
      button('NIfTI', save('nifti'), { id: 'export-nifti' }),
      scan.dicom ? button('DICOM SEG', save('dicom-seg'), { id: 'export-seg' }) : null,
      button('Report', save('report'), { id: 'export-report' })
    )
  )
}

async function addTarget(app: App): Promise<void> {
  const names = await api.vocabulary()
  const body = el(
    'div',
    { class: 'form' },
    el('label', {}, 'Name', el('input', { name: 'name', required: true, list: 'names', maxlength: 100, autocomplete: 'off' })),
    el('datalist', { id: 'names' }, ...names.map((name) => el('option', { value: name }))),
    el(
      'label',
      {},
      'Words to find it by (leave empty to show it on a slice)',
      el('input', { name: 'prompt', maxlength: 200, placeholder: 'liver tumor', autocomplete: 'off' })
    ),
    el('p', { class: 'dim' }, 'Finding tumors by words is an experiment: look at every result.')
  )
  const form = await askFor('Add a target', body, 'Add')
  if (!form) return
  const target = await api.addTarget(String(form.get('name')), String(form.get('prompt') ?? ''))
  await app.refresh()
  app.choose(target.id)
}

export async function addScans(app: App): Promise<void> {
  const input = el('input', { type: 'file', name: 'files', multiple: true, id: 'upload' }) as HTMLInputElement
  const places = app.project.folders.map((folder) => folderTree(app, folder, folder))
  const body = el(
    'div',
    { class: 'form' },
    el('label', {}, 'Upload files: NIfTI, NRRD, MHA, pictures, or all files of one DICOM series', input),
    app.project.folders.length ? el('h3', {}, 'Or open from a folder of this machine') : null,
    el('div', { class: 'tree' }, ...places)
  )
  const form = await askFor('Add scans', body, 'Upload')
  if (form && input.files?.length) await addFiles(app, [...input.files])
}

function folderTree(app: App, folder: string, name: string): HTMLElement {
  const inside = el('div', { class: 'inside' })
  const details = el('details', {}, el('summary', {}, name), inside) as HTMLDetailsElement
  details.addEventListener('toggle', () => {
    if (details.open && !inside.childNodes.length) {
      void attempt(async () => inside.replaceChildren(...entries(app, folder, await api.files(folder))))
    }
  })
  return details
}

function entries(app: App, folder: string, found: Entry[]): HTMLElement[] {
  const open = (path: string) => () =>
    void attempt(async () => {
      byId<HTMLDialogElement>('dialog').close()
      say('Opening the scan …')
      const scan = await api.addScan(path)
      await app.refresh()
      await app.openScan(scan.id)
      say(`Opened ${scan.name}.`, 'good')
    })
  const series = button('Open this folder as one DICOM series', open(folder), { class: 'link' })
  const rows = found.map((one) =>
    one.kind === 'folder' ? folderTree(app, one.path, one.name) : button(one.name, open(one.path), { class: 'link' })
  )
  return [series, ...rows]
}

export function showKeys(): void {
  const keys: [string, string][] = [
    ['Enter, Shift Enter', 'find in this scan, in all scans'],
    ['Arrows', 'move the crosshair in the slice'],
    ['Page up, Page down', 'next, previous slice'],
    ['B, F, E, V, M', 'brush, filled outline, eraser, look, ruler'],
    ['Right button', 'drag to change the window'],
    ['P, Shift P', 'dab of the brush, of the eraser, at the crosshair'],
    ['[ and ]', 'smaller, larger brush'],
    ['G', 'grow what is painted over pixels that are alike'],
    ['I', 'fill the slices between those that you drew'],
    ['C', 'this slice is right as it is; again: give it back'],
    ['Z', 'undo'],
    ['A, R', 'accept, reject'],
    ['W', 'most doubtful slice'],
    ['N', 'next scan, the most doubtful first'],
    ['1 to 9', 'choose a target'],
    ['O', 'hide or show the target'],
    ['D, Shift D', 'show probability, show doubt'],
    ['L', 'next layout'],
    ['Shift W', 'next window']
  ]
  const rows = keys.map(([key, what]) => el('tr', {}, el('th', {}, key), el('td', {}, what)))
  show('Keys', el('table', { class: 'keys' }, ...rows))
}
