import { keepToken, Refused, takeToken } from './api'
import { App } from './app'
import { askFor, attempt, byId, el, say, update } from './dom'
import { acceptDrops } from './files'
import { addScans, renderScans, renderTargets } from './panels'
import { Strip } from './strip'
import './style.css'
import { Toolbar, useTheme } from './toolbar'
import { Viewer } from './viewer'

async function main(): Promise<void> {
  const theme = localStorage.getItem('latentseg-theme') === 'light' ? 'light' : 'dark'
  document.documentElement.dataset.theme = theme
  const viewer = new Viewer(byId<HTMLCanvasElement>('canvas'))
  await viewer.attach()
  const app = new App(viewer)
  const toolbar = new Toolbar(app)
  const strip = new Strip(app)
  let waiting = false

  const render = () => {
    waiting = false
    byId('project-name').textContent = app.project.name
    renderScans(app)
    renderTargets(app)
    toolbar.render()
    strip.render()
    empty(app)
  }
  app.changed = () => {
    if (!waiting) requestAnimationFrame(render)
    waiting = true
  }
  viewer.onPlace = (voxel, value) => {
    const unit = app.open?.modality === 'CT' ? ' HU' : ''
    byId('badge').textContent = Number.isFinite(value) ? `${voxel.join(', ')}   ${Math.round(value)}${unit}` : ''
    strip.render()
  }
  useTheme(theme, app)
  acceptDrops(app, byId('stage'), (work) => void attempt(work))
  Object.assign(window, { latentseg: { app, viewer } })
  await enter(app)
}

/** Load the project; without the right token ask for it. */
async function enter(app: App): Promise<void> {
  for (;;) {
    try {
      if (!takeToken()) throw new Refused(401, '')
      return await app.start()
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) {
        return say(error instanceof Error ? error.message : String(error), 'error')
      }
    }
    const input = el('input', { name: 'token', required: true, autocomplete: 'off' })
    const hint = el('p', { class: 'dim' }, 'It is in the address that latentseg serve printed, after token=.')
    const form = await askFor('Token', el('div', { class: 'form' }, el('label', {}, 'Token of this server', input), hint), 'Open')
    if (form) keepToken(String(form.get('token')))
  }
}

function empty(app: App): void {
  const place = byId('empty')
  place.hidden = !!app.open && !app.loading
  if (app.loading) return update(place, el('p', {}, `Opening ${app.open?.name ?? 'the scan'} …`))
  if (app.open) return
  const add = el('button', { type: 'button', class: 'primary', onclick: () => void attempt(() => addScans(app)) }, 'Add a scan')
  update(
    place,
    el('h1', {}, 'Show it once, find it everywhere'),
    el('ol', {}, el('li', {}, 'Add a scan, or drop one here.'), el('li', {}, 'Paint a structure on one slice.'), el('li', {}, 'Press Find. Correct what is wrong, and it learns.')),
    add
  )
}

void main()
