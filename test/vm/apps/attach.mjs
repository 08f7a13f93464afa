// attach.mjs REGION...: attaches to one after the other; prints the code of each refusal, null where there was none.
import { attach } from '../../../dist/index.js'

const codes = []
for (const region of process.argv.slice(2)) {
  try {
    const peer = await attach({ region })
    await peer.close()
    codes.push(null)
  } catch ({ code }) {
    codes.push(code)
  }
}
console.log(JSON.stringify(codes))
