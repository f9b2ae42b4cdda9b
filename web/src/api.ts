// The server's interface, typed: what /api/openapi.json describes.

export type Verdict = 'accepted' | 'rejected' | 'none'

export interface Target {
  id: number
  name: string
  color: string
  prompt: string
  code: { scheme: string; value: string; meaning: string }
}

export interface Project {
  name: string
  version: string
  user: string
  targets: Target[]
  folders: string[]
}

export interface ScanTarget {
  target: number
  drawn: number[]
  found: boolean
  verdict: Verdict
  presence: number | null
  volume_ml: number | null
  doubt: number | null
  why: string | null
  worst_slice: number | null
  agreement: number | null
  at: string | null
  seconds: number | null
}

export interface Scan {
  id: string
  name: string
  modality: string
  shape: [number, number, number]
  spacing_mm: [number, number, number]
  dicom: boolean
  window: [number, number]
  doubt: number | null
  targets: ScanTarget[]
}

export interface Job {
  id: string
  scan: string
  targets: number[]
  background: boolean
  state: 'queued' | 'running' | 'done' | 'failed' | 'stopped'
  stage: string
  fraction: number
  seconds_left: number | null
  error: { sentence: string } | null
  warnings: string[]
  made: string
}

export interface Entry {
  name: string
  path: string
  kind: 'folder' | 'scan'
}

export interface Mask {
  box: [number, number, number, number, number, number]
  voxels: Uint8Array
}

export interface Profile {
  held: number[]
  doubt: number[]
}

export interface Comparison {
  dice: number
  before_ml: number
  after_ml: number
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    sentence: string
  ) {
    super(sentence)
  }
}

const KEPT = 'latentseg-token'
const USER = 'latentseg-user'

/** Take the token out of the address, where it would stay in the history, and keep it for this tab. */
export function takeToken(): string {
  const given = new URLSearchParams(location.hash.slice(1)).get('token')
  if (given) {
    sessionStorage.setItem(KEPT, given)
    history.replaceState(null, '', location.pathname)
  }
  return sessionStorage.getItem(KEPT) ?? ''
}

export function keepToken(token: string): void {
  sessionStorage.setItem(KEPT, token)
}

function headers(more: Record<string, string> = {}): Record<string, string> {
  const user = encodeURIComponent(api.user()) // headers are ASCII
  return { Authorization: `Bearer ${takeToken()}`, ...(user ? { 'X-User': user } : {}), ...more }
}

async function ask(method: string, path: string, body?: BodyInit, more: Record<string, string> = {}): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(path, { method, body, headers: headers(more) })
  } catch {
    throw new Refused(0, 'The server does not answer. Is latentseg serve still running?')
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}))
    throw new Refused(answer.status, plain(problem.sentence ?? `The server answered ${answer.status}.`))
  }
  return answer
}

/** A sentence without the code of the error, for people. */
export function plain(sentence: string): string {
  const text = sentence.replace(/^E\d{3} /, '')
  return text.charAt(0).toUpperCase() + text.slice(1)
}

async function json<T>(method: string, path: string, content?: unknown): Promise<T> {
  const body = content === undefined ? undefined : JSON.stringify(content)
  const more: Record<string, string> = body === undefined ? {} : { 'Content-Type': 'application/json' }
  const answer = await ask(method, path, body, more)
  return (answer.status === 204 ? undefined : await answer.json()) as T
}

async function gzipped(bytes: Uint8Array): Promise<Blob> {
  const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(new CompressionStream('gzip'))
  return await new Response(stream).blob()
}

export const api = {
  user: () => localStorage.getItem(USER) ?? '',
  setUser: (name: string) => localStorage.setItem(USER, name.trim()),
  project: () => json<Project>('GET', '/api/project'),
  scans: () => json<Scan[]>('GET', '/api/scans'),
  jobs: () => json<Job[]>('GET', '/api/jobs'),
  vocabulary: () => json<string[]>('GET', '/api/vocabulary'),
  files: (folder: string) => json<Entry[]>('GET', `/api/files?folder=${encodeURIComponent(folder)}`),
  addTarget: (name: string, prompt: string) => json<Target>('POST', '/api/targets', { name, prompt }),
  changeTarget: (id: number, change: { name?: string; color?: string }) =>
    json<Target>('PATCH', `/api/targets/${id}`, change),
  addScan: (path: string) => json<Scan>('POST', '/api/scans', { path }),
  removeScan: (id: string) => json<void>('DELETE', `/api/scans/${id}`),
  find: (scans: string[], targets: number[]) => json<Job[]>('POST', '/api/jobs', { scans, targets }),
  stop: (job: string) => json<Job>('DELETE', `/api/jobs/${job}`),
  judge: (scan: string, target: number, verdict: Verdict) =>
    json<{ scan: Scan; jobs: Job[] }>('PUT', `/api/scans/${scan}/verdicts/${target}`, { verdict }),
  undo: (scan: string) => json<{ target: number | null; slices: number[] }>('POST', `/api/scans/${scan}/undo`),
  forget: (scan: string, target: number, slices: number[]) =>
    json<Scan>('DELETE', `/api/scans/${scan}/drawings/${target}?slices=${slices.join(',')}`),
  interpolate: (scan: string, target: number) => json<Scan>('POST', `/api/scans/${scan}/interpolate/${target}`),
  profile: (scan: string, target: number) => json<Profile>('GET', `/api/scans/${scan}/profile/${target}`),
  compare: (scan: string, target: number) => json<Comparison>('GET', `/api/scans/${scan}/comparison/${target}`),

  async image(scan: string): Promise<ArrayBuffer> {
    return await (await ask('GET', `/api/scans/${scan}/image`)).arrayBuffer()
  },

  async probability(scan: string, target: number, doubt: boolean): Promise<ArrayBuffer> {
    return await (await ask('GET', `/api/scans/${scan}/probability/${target}?doubt=${doubt}`)).arrayBuffer()
  },

  async evidence(scan: string, target: number, name: string): Promise<ArrayBuffer> {
    return await (await ask('GET', `/api/scans/${scan}/evidence/${target}/${name}`)).arrayBuffer()
  },

  async mask(scan: string, target: number, before = false): Promise<Mask> {
    const bytes = await (await ask('GET', `/api/scans/${scan}/masks/${target}?before=${before}`)).arrayBuffer()
    const box = Array.from(new Uint32Array(bytes, 0, 6)) as Mask['box']
    return { box, voxels: new Uint8Array(bytes, 24) }
  },

  async draw(scan: string, target: number, slices: number[], voxels: Uint8Array): Promise<Scan> {
    const path = `/api/scans/${scan}/drawings/${target}?slices=${slices.join(',')}`
    const more = { 'Content-Encoding': 'gzip', 'Content-Type': 'application/octet-stream' }
    return await (await ask('PUT', path, await gzipped(voxels), more)).json()
  },

  async upload(name: string, content: Blob): Promise<Scan> {
    const more = { 'Content-Type': 'application/octet-stream' }
    return await (await ask('POST', `/api/scans/upload?name=${encodeURIComponent(name)}`, content, more)).json()
  },

  /** Download a file that needs the token, and offer it to be kept. */
  async save(path: string): Promise<string> {
    const answer = await ask('GET', path)
    const name = /filename="?([^";]+)/.exec(answer.headers.get('Content-Disposition') ?? '')?.[1] ?? 'export'
    const link = document.createElement('a')
    link.href = URL.createObjectURL(await answer.blob())
    link.download = decodeURIComponent(name)
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
    return link.download
  },

  /** Listen to what happens on the server, and again after it was away. */
  async listen(tell: (kind: string, content: unknown) => void, back: () => void): Promise<never> {
    let first = true
    for (;;) {
      try {
        const answer = await ask('GET', '/api/events')
        if (!first) back()
        first = false
        await read(answer, tell)
      } catch (error) {
        if (error instanceof Refused && error.status === 401) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
}

async function read(answer: Response, tell: (kind: string, content: unknown) => void): Promise<void> {
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    text += value
    const events = text.split('\n\n')
    text = events.pop() ?? ''
    for (const event of events) {
      const kind = /^event: (.*)$/m.exec(event)?.[1]
      const data = /^data: (.*)$/m.exec(event)?.[1]
      if (kind && data) tell(kind, JSON.parse(data))
    }
  }
}
