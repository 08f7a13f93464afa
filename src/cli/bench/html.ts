/** One page with everything on it, and nothing fetched from anywhere. */
import type { Environment } from './environment.js'
import type { Outcome } from './result.js'
import { escaped, picture } from './svg.js'

export function page(outcomes: readonly Outcome[], environment: Environment, text: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>vmring bench</title>
<style>body{font-family:system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222}
pre{overflow-x:auto;background:#f6f6f6;padding:1rem;font-size:13px}svg{width:100%;height:auto}</style>
<h1>vmring bench</h1>
<p>${escaped(environment.startedAt)}, <code>vmring ${escaped(environment.arguments.join(' '))}</code></p>
${picture(outcomes, environment)}
<pre>${escaped(text)}</pre>
</html>
`
}
