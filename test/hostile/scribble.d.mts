export declare const AREAS: string[]

export interface ScribbleResult {
  area: string
  lies: number
  messages: number
  elsewhere: { region: number; relay: number }
  failures: string[]
  [more: string]: unknown
}

export declare function scribble(how: {
  areas?: string[]
  seconds: number
  seed: number
  gap?: number
  env?: Record<string, string>
  report?: (result: ScribbleResult) => void
}): Promise<ScribbleResult[]>
