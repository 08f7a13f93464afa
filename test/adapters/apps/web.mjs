// An ordinary express app, which knows nothing of vmring.
import express from 'express'

const app = express()
app.get('/', (_request, response) => response.send('hello'))
app.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'))
