/** What ref() and unref() of channels and servers come to: at most one hold on the event loop each. */
export interface Holder {
  hold(): void
  drop(): void
}

export class Hold {
  readonly #holder: Holder
  #held = false

  constructor(holder: Holder) {
    this.#holder = holder
  }

  take(): void {
    if (this.#held) return
    this.#held = true
    this.#holder.hold()
  }

  release(): void {
    if (!this.#held) return
    this.#held = false
    this.#holder.drop()
  }
}
