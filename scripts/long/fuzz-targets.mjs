/** What fuzz.mjs can be told to fuzz: native/test/fuzz and test/fuzz. */
export const nativeTargets = ['core', 'region', 'control', 'ivshmem']
export const scriptTargets = ['frames', 'relay', 'stream', 'session', 'clone', 'hybrid', 'policy', 'map']
