/** Which section of the region belongs to which client: the daemon's private list, of which the peer table is a copy. */
export class SectionTable {
  readonly #generations: Uint32Array
  /** free sections, the one that has been free longest first, so that late words for an old owner find nobody for a while */
  readonly #free: number[]

  constructor(sections: number) {
    this.#generations = new Uint32Array(sections)
    this.#free = Array.from({ length: sections }, (_, index) => index)
  }

  get free(): number {
    return this.#free.length
  }

  /** The section and the count of its owners so far, this one included; null when none is free. */
  take(): { section: number; generation: number } | null {
    const section = this.#free.shift()
    if (section === undefined) return null
    this.#generations[section]!++
    return { section, generation: this.#generations[section]! }
  }

  give(section: number): void {
    this.#free.push(section)
  }
}
