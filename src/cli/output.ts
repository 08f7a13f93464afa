/** How commands print: JSON for scripts, aligned columns for people. */
export function printJson(value: unknown): void {
  const plain = (_key: string, v: unknown) => (typeof v === 'bigint' ? Number(v) : v)
  process.stdout.write(`${JSON.stringify(value, plain, 2)}\n`)
}

/** Left-aligned columns; those named in `right` are right-aligned. Cells of one column take the width of the widest. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = []
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length)
    })
  }
  const pad = (cell: string, i: number) =>
    right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)
  return rows.map((row) => `${row.map(pad).join('  ').trimEnd()}\n`).join('')
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

/** 67108864 → '64 MiB' */
export function bytes(count: number): string {
  let value = count
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  const digits = Number.isInteger(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2
  return `${value.toFixed(digits)} ${units[unit]}`
}
