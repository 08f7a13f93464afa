// node server.mjs LIBRARY ADDRESS: the ordinary server of a library at an address of vmring.
const [name, at] = process.argv.slice(2)
const { serve } = await import(`./libraries/${name}.mjs`)
await serve(at)
console.log('ready')
