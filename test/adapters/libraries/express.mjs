import http from 'node:http'
import express from 'express'
import { createServer } from 'vmring/net'
import { echo, patient } from './shared.mjs'

export { open } from './http.mjs'

export function serve(at) {
  const web = http.createServer(patient, express().post(['/echo', '/hang'], echo))
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}
