// Node's http: what src/lib.rs says, `node answers.js PORT`.
'use strict';

const http = require('node:http');

const HOLD_MS = 50;

function respond(response, type, body) {
  response.writeHead(200, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

function alloc(kib) {
  const block = Buffer.allocUnsafe(kib * 1024);
  let pages = 0;
  for (let at = 0; at < block.length; at += 4096) {
    block[at] = 1;
    pages += 1;
  }
  return `${kib} KiB, ${pages} pages\n`;
}

const server = http.createServer((request, response) => {
  const [, name, number] = request.url.split('/');
  switch (name) {
    case '':
      return respond(response, 'text/plain; charset=utf-8', 'hello, world\n');
    case 'json':
      return respond(response, 'application/json', JSON.stringify({ message: 'Hello, World!' }));
    case 'size':
      return respond(response, 'application/octet-stream', Buffer.alloc(Number(number), 'x'));
    case 'alloc':
      return respond(response, 'text/plain; charset=utf-8', alloc(Number(number)));
    case 'attack': {
      const block = Buffer.alloc(Number(number) * 1024, 7);
      return setTimeout(() => respond(response, 'text/plain; charset=utf-8', `held ${block.length} bytes\n`), HOLD_MS);
    }
    case 'echo': {
      const parts = [];
      request.on('data', (part) => parts.push(part));
      return request.on('end', () => respond(response, 'application/octet-stream', Buffer.concat(parts)));
    }
    default:
      response.writeHead(404, { 'Content-Length': 0 });
      return response.end();
  }
});

server.keepAliveTimeout = 3600_000;
server.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 4096 });
