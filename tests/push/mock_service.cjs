// The npm package web-push-testing as a push service that checks VAPID and decrypts.
// Prints its port on one line, then serves until it is killed.
const net = require('node:net');
const { PushApiModel } = require('web-push-testing/src/PushApiModel');
const Server = require('web-push-testing/src/server');

const probe = net.createServer().listen(0, () => {
  const { port } = probe.address();
  probe.close(() => {
    console.log = () => {};
    const server = new Server(new PushApiModel(), port);
    server.startServer();
    server._server.on('listening', () => process.stdout.write(`${port}\n`));
  });
});
