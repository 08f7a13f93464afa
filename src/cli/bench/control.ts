/** What the two sides of a run have to tell each other beside what is measured. */
import { VmringError } from '../../errors.js'
import type { Channel } from '../../index.js'
import type { Note } from './job.js'

type NoteOf<T extends Note['type']> = Extract<Note, { type: T }>

export class Control {
  readonly #put: (note: Note) => void
  readonly #waiting = new Map<string, (note: Note) => void>()
  readonly #early: Note[] = []
  #fail: ((error: Error) => void)[] = []
  #error: Error | null = null
  /** resolves when the other side has gone */
  readonly over: Promise<void>
  #end!: () => void

  constructor(put: (note: Note) => void) {
    this.#put = put
    this.over = new Promise((resolve) => {
      this.#end = resolve
    })
  }

  send(note: Note): void {
    this.#put(note)
  }

  take(note: Note): void {
    const waiting = this.#waiting.get(note.type)
    if (waiting === undefined) {
      this.#early.push(note)
    } else {
      this.#waiting.delete(note.type)
      waiting(note)
    }
  }

  /** The other side is gone. */
  fail(error: Error): void {
    this.#error ??= error
    this.#end()
    for (const reject of this.#fail.splice(0)) reject(error)
  }

  next<T extends Note['type']>(type: T): Promise<NoteOf<T>> {
    const index = this.#early.findIndex((note) => note.type === type)
    if (index >= 0) return Promise.resolve(this.#early.splice(index, 1)[0] as NoteOf<T>)
    if (this.#error !== null) return Promise.reject(this.#error)
    const note = new Promise<NoteOf<T>>((resolve, reject) => {
      this.#waiting.set(type, resolve as (note: Note) => void)
      this.#fail.push(reject)
    })
    note.catch(() => {})
    return note
  }
}

/** Between machines: notes are JSON on a channel of their own. */
export function controlOver(channel: Channel): Control {
  const control = new Control((note) => void channel.send(Buffer.from(JSON.stringify(note))).catch(() => {}))
  channel.on('message', (message) => control.take(message.json() as Note))
  channel.on('error', () => {})
  void channel.closed.then((error) =>
    control.fail(
      error ??
        new VmringError('ERR_VMRING_CLOSED', 'the other side of the bench ended in the middle of a run'),
    ),
  )
  return control
}
