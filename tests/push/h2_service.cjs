// A push service over TLS that offers HTTP/2, as the real ones do. Prints its port on one line,
// then every request as one line of JSON.
// usage: node h2_service.cjs CERTIFICATE KEY
const fs = require('node:fs');
const http2 = require('node:http2');

const [cert, key] = process.argv.slice(2).map((path) => fs.readFileSync(path));
const server = http2.createSecureServer({ cert, key, allowHTTP1: true }, (request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString('base64');
    const { httpVersion: version, url: path, headers } = request;
    console.log(JSON.stringify({ version, path, headers, body }));
    response.writeHead(201);
    response.end();
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
