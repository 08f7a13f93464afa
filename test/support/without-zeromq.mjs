// For --import: the package zeromq is not installed.
import { register } from 'node:module'

const hooks = `export async function resolve(name, context, next) {
  if (name === 'zeromq') throw Object.assign(new Error('there is no such package'), { code: 'ERR_MODULE_NOT_FOUND' })
  return next(name, context)
}`
register(`data:text/javascript,${encodeURIComponent(hooks)}`)
