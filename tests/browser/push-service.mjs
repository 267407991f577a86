// A push service on loopback: npm web-push-testing, which decrypts what it is sent, plus what it
// does not look at itself: a note of each request's headers and size, so that tests can check them.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { PushApiModel } = require("web-push-testing/src/PushApiModel");
const WebPushTestingServer = require("web-push-testing/src/server");

/** Starts it on a port; answers { url, subscribe, messages, requests, stop }. */
export async function startPushService(port) {
  const model = new PushApiModel();
  const service = new WebPushTestingServer(model, port);
  const requests = [];
  service._app.use("/notify/:clientHash", (request, response, next) => {
    requests.push({ client: request.params.clientHash, headers: { ...request.headers }, bytes: request.body?.length ?? 0 });
    next();
  });
  const log = console.log;
  console.log = () => {}; // it greets on the standard output, which belongs to the test report
  service.startServer();
  await new Promise((resolve) => service._server.once("listening", resolve));
  console.log = log;
  return {
    url: `http://localhost:${port}`,
    subscribe: async (applicationServerKey) => model.subscribe({ userVisibleOnly: "true", applicationServerKey }),
    messages: (clientHash) => model.getNotifications({ clientHash }).messages,
    requests,
    expire: (clientHash) => model.expireSubscription(clientHash),
    stop: () => new Promise((resolve) => {
      service._server.close(resolve);
      service._server.closeAllConnections();
    }),
  };
}
