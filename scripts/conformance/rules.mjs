/**
 * Which of Node's tests say nothing about vmring/net, and why. A rule holds for a property of the test, told by its name or its
 * source; none is there for a test alone because it fails.
 *
 * `name` and `source` are patterns; a rule with both needs both.
 */
export const rules = [
  {
    id: 'internals',
    why: 'looks into Node: internal modules, bindings, or the handle of a socket, which a socket of vmring/net does not have',
    source:
      /--expose[-_]internals|internalBinding\(|process\.binding\(|\b_handle\b|require\('internal\/|kHandle\b|_getActiveHandles|getActiveResourcesInfo/,
  },
  {
    id: 'dns',
    why: 'is about name resolution or the choice between the addresses of a name (happy eyeballs)',
    name: /dns|lookup|autoselectfamily|happy-eyeballs/,
  },
  {
    id: 'dns',
    why: 'is about name resolution or the choice between the addresses of a name (happy eyeballs)',
    source: /require\('(node:)?dns'\)|\blookup[:(,]|common\/dns/,
  },
  {
    id: 'ip',
    why: 'is about properties of IP sockets: local addresses, families, block lists, keep-alive probes, type of service, shared ports',
    source:
      /localAddress|blockList|BlockList|\bfamily: ?[46]|hasIPv6|ipv6Only|setKeepAlive|keepAliveInitialDelay|TypeOfService|reusePort|common\.localhostIPv4|127\.0\.0\.[2-9]/,
  },
  {
    id: 'cluster',
    why: 'is about the cluster module, which shares listening handles between processes',
    source: /require\('(node:)?cluster'\)/,
  },
  {
    id: 'handles',
    why: 'passes or takes system handles: file descriptors, sockets sent to other processes or threads',
    source:
      /\bfd: ?|\.fd\b|process\.send\([^)]*(socket|server|handle)|child\.send\([^)]*(socket|server|handle)|handle: ?|BoundSocket|\bhandle\b.*\bwrap\b|createServerHandle/,
  },
  {
    id: 'observers',
    why: 'counts the operations of system sockets in async_hooks, perf_hooks, trace events or diagnostics of the process',
    source: /require\('(node:)?(async_hooks|perf_hooks|trace_events|inspector)'\)|process\.report/,
  },
  {
    id: 'programs',
    why: 'lets a program that is not Node connect (openssl, curl, a shell), and that speaks TCP',
    source: /opensslCli|\bcurl\b|'openssl'|s_client|s_server/,
  },
]

/** The first rule that excludes the file, or undefined. */
export function ruleFor(name, source) {
  const code = source.replace(/^\/\/(?! Flags:).*$/gm, '')
  return rules.find((rule) => (rule.name?.test(name) ?? true) && (rule.source?.test(code) ?? true))
}
