// Times of short rounds, sorted: on a machine with other work the fast ones are those in which nothing else ran.
export function rounds(name, work, { each = 500, count = 1500 } = {}) {
  const times = []
  for (let round = 0; round < count; round++) {
    const begin = process.hrtime.bigint()
    for (let i = 0; i < each; i++) work(i)
    times.push(Number(process.hrtime.bigint() - begin) / each)
  }
  console.log(`${name}: ${summary(times)}`)
}

export function summary(times) {
  times.sort((a, b) => a - b)
  const at = (share) => times[Math.floor(times.length * share)].toFixed(1)
  return `least ${at(0)} ns, 10 % ${at(0.1)}, 30 % ${at(0.3)}, half ${at(0.5)}`
}
