// Loaded first into a process that runs from the instrumented copy: every step of the sources is a call to vmringStep() there.
// VMRING_STEP is the place to die at: name, tab, number of the visit; VMRING_STEP_AT a file that then says when; VMRING_STEP_GO a file to wait for at that place. VMRING_STEP_COUNTS is a file for the visits of all, written at SIGUSR2.
import { existsSync, writeFileSync } from 'node:fs'

const [wanted, visit] = (process.env.VMRING_STEP ?? '').split('\t')
const counts = {}
globalThis.vmringStep = (name) => {
  counts[name] = (counts[name] ?? 0) + 1
  if (name !== wanted || counts[name] !== Number(visit)) return
  const go = process.env.VMRING_STEP_GO
  const word = new Int32Array(new SharedArrayBuffer(4))
  while (go !== undefined && !existsSync(go)) Atomics.wait(word, 0, 0, 5)
  const at = process.env.VMRING_STEP_AT
  if (at !== undefined) writeFileSync(at, String(Number(process.hrtime.bigint() / 1000n) / 1000))
  process.kill(process.pid, 'SIGKILL')
}
globalThis.vmringSteps = counts
const file = process.env.VMRING_STEP_COUNTS
if (file !== undefined) process.on('SIGUSR2', () => writeFileSync(file, JSON.stringify(counts)))
