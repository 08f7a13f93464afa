// The parsers of foreign bytes that are TypeScript, each as a function of bytes that throws when something is wrong: an error
// that is not ours, a value outside its range, an answer that depends on how the bytes were cut.
import { frames, relay, stream } from './frames.mjs'
import { hybrid, map, policy } from './lines.mjs'
import { clone, session } from './session.mjs'

export const targets = { frames, relay, stream, session, clone, hybrid, policy, map }
