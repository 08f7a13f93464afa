export interface TornResult {
  kind: string
  attempts: number
  /** decoded from words of several versions */
  changed: number
  checked: number
  failures: string[]
}

export declare function torn(how: {
  seconds?: number
  attempts?: (kind: string) => number
}): Promise<TornResult[]>
