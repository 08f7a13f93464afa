/**
 * One line on a terminal that says how far a longer piece of work is. It appears after a second, is rewritten in place, and
 * leaves nothing behind. Anywhere else than on a terminal it writes nothing.
 */
export class Progress {
  readonly #stream: NodeJS.WriteStream
  readonly #timer: NodeJS.Timeout | null = null
  #shown = false
  #text = ''

  constructor(text: string, stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream
    this.#text = text
    if (!stream.isTTY) return
    const begin = Date.now()
    this.#timer = setInterval(() => {
      if (Date.now() - begin >= 1000) this.#draw(Math.floor((Date.now() - begin) / 1000))
    }, 200)
    this.#timer.unref()
  }

  update(text: string): void {
    this.#text = text
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    if (this.#shown) this.#stream.write('\r\x1b[K')
    this.#shown = false
  }

  #draw(seconds: number): void {
    this.#shown = true
    const room = (this.#stream.columns || 80) - 1
    this.#stream.write(`\r\x1b[K${`${this.#text} (${seconds} s)`.slice(0, room)}`)
  }
}
