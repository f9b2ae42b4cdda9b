// Uploads: single files as they are, the files of a DICOM series as one archive.

import { zip } from 'fflate'
import { api, type Scan } from './api'
import type { App } from './app'
import { say } from './dom'

const IMAGES = /\.(nii|nii\.gz|nrrd|nhdr|mha|mhd|png|tiff?|jpe?g|zip)$/i

export async function addFiles(app: App, files: File[]): Promise<void> {
  const images = files.filter((file) => IMAGES.test(file.name))
  const rest = files.filter((file) => !IMAGES.test(file.name) && !file.name.startsWith('.'))
  const uploads: [string, Blob][] = images.map((file) => [file.name, file])
  if (rest.length) uploads.push([`${rest[0].webkitRelativePath.split('/')[0] || 'series'}.zip`, await archive(rest)])
  let last: Scan | null = null
  for (const [name, content] of uploads) {
    say(`Uploading ${name} …`)
    last = await api.upload(name, content)
  }
  await app.refresh()
  if (last) {
    await app.openScan(last.id)
    say(uploads.length === 1 ? `Added ${last.name}.` : `Added ${uploads.length} scans.`, 'good')
  }
}

async function archive(files: File[]): Promise<Blob> {
  const parts: Record<string, Uint8Array> = {}
  for (const [number, file] of files.entries()) parts[`${number}-${file.name}`] = new Uint8Array(await file.arrayBuffer())
  return await new Promise((resolve, reject) =>
    zip(parts, { level: 0 }, (error, bytes) => (error ? reject(error) : resolve(new Blob([bytes as BlobPart]))))
  )
}

export function acceptDrops(app: App, place: HTMLElement, attempt: (work: () => Promise<void>) => void): void {
  place.addEventListener('dragover', (event) => {
    event.preventDefault()
    place.classList.add('drop')
  })
  place.addEventListener('dragleave', () => place.classList.remove('drop'))
  place.addEventListener('drop', (event) => {
    event.preventDefault()
    place.classList.remove('drop')
    const files = [...(event.dataTransfer?.files ?? [])]
    if (files.length) attempt(() => addFiles(app, files))
  })
}
