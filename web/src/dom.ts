// Small helpers for the page.

type Props = Record<string, string | number | boolean | ((event: Event) => void) | undefined>

type Listeners = Record<string, (event: Event) => void>
const listening = new WeakMap<Element, Listeners>()

function dispatch(event: Event): void {
  listening.get(event.currentTarget as Element)?.[event.type]?.(event)
}

/** Make an element; properties that start with "on" are listeners. */
export function el(tag: string, props: Props = {}, ...children: (Node | string | null)[]): HTMLElement {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue
    if (typeof value === 'function') listen(made, { [name.slice(2)]: value })
    else if (name === 'class') made.className = String(value)
    else made.setAttribute(name, value === true ? '' : String(value))
  }
  made.append(...children.filter((child): child is Node | string => child !== null))
  return made
}

function listen(element: Element, more: Listeners): void {
  const own = listening.get(element) ?? {}
  for (const name of Object.keys(more)) if (!(name in own)) element.addEventListener(name, dispatch)
  listening.set(element, { ...own, ...more })
}

/**
 * Make the children of an element like others, and keep the elements that are there: a button that is pressed or
 * holds the focus stays the same button while the page goes on.
 */
export function update(place: Element, ...wanted: (Node | null)[]): void {
  const made = document.createElement('div')
  made.append(...wanted.filter((node): node is Node => node !== null))
  morphChildren(place, made)
}

function morphChildren(old: Element, made: Element): void {
  const now = [...old.childNodes]
  const next = [...made.childNodes]
  next.forEach((node, at) => {
    const there = now[at]
    if (!there) old.append(node)
    else if (there instanceof Element && node instanceof Element && there.tagName === node.tagName && there.id === node.id) morph(there, node)
    else if (there instanceof Text && node instanceof Text) {
      if (there.data !== node.data) there.data = node.data
    } else there.replaceWith(node)
  })
  now.slice(next.length).forEach((node) => node.remove())
}

function morph(old: Element, made: Element): void {
  for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name)
  for (const { name, value } of [...made.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  const listeners = listening.get(made)
  if (listeners) listen(old, listeners)
  morphChildren(old, made)
  const open = old !== document.activeElement
  if (old instanceof HTMLSelectElement && made instanceof HTMLSelectElement && open) old.value = made.value
  if (old instanceof HTMLInputElement && made instanceof HTMLInputElement && open) old.value = made.value
}

export function byId<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T
}

export function button(text: string, onclick: (event: Event) => void, props: Props = {}): HTMLButtonElement {
  return el('button', { type: 'button', onclick, ...props }, text) as HTMLButtonElement
}

/** "1 min 20 s", as people say it. */
export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  return `${Math.floor(whole / 60)} min ${whole % 60} s`
}

let fading = 0

/** Tell the user something in the status line; errors stay until the next message. */
export function say(text: string, kind: 'info' | 'error' | 'good' = 'info'): void {
  const status = byId('status')
  clearTimeout(fading)
  status.textContent = text
  status.dataset.kind = kind
  if (kind !== 'error') fading = window.setTimeout(() => (status.textContent = ''), 8000)
}

/** Run something that may fail; a failure is told as a sentence. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), 'error')
    return undefined
  }
}

/** Ask in a dialog; the promise ends with what the form holds, or with null. */
export function askFor(title: string, body: HTMLElement, ok: string): Promise<FormData | null> {
  const dialog = byId<HTMLDialogElement>('dialog')
  const cancel = button('Cancel', () => dialog.close('no'))
  const form = el('form', { method: 'dialog' }) as HTMLFormElement
  const buttons = el('div', { class: 'row end' }, cancel, el('button', { class: 'primary', value: 'yes' }, ok))
  form.append(el('h2', {}, title), body, buttons)
  dialog.replaceChildren(form)
  dialog.showModal()
  return new Promise((resolve) => {
    dialog.onclose = () => {
      resolve(dialog.returnValue === 'yes' ? new FormData(form) : null)
      dialog.returnValue = ''
    }
  })
}

/** Show something in a dialog until it is closed. */
export function show(title: string, ...body: HTMLElement[]): void {
  const dialog = byId<HTMLDialogElement>('dialog')
  const close = button('Close', () => dialog.close(), { class: 'primary' })
  dialog.onclose = null
  dialog.replaceChildren(el('h2', {}, title), ...body, el('div', { class: 'row end' }, close))
  dialog.showModal()
}
