// Sends Web Push for the stub only (the real binary sends its own): RFC 8291 by npm http_ece, the
// VAPID token (RFC 8292) by node's crypto.

import { createECDH, createSign, generateKeyPairSync, randomBytes } from "node:crypto";
import { createRequire } from "node:module";

const ece = createRequire(import.meta.url)("http_ece");

/** Makes a VAPID key pair; answers { vapid, push(subscription, payload) }. */
export function makeSender() {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const jwk = publicKey.export({ format: "jwk" });
  const point = Buffer.concat([Buffer.from([4]), Buffer.from(jwk.x, "base64url"), Buffer.from(jwk.y, "base64url")]);
  const vapid = point.toString("base64url");

  function token(audience) {
    const part = (json) => Buffer.from(JSON.stringify(json)).toString("base64url");
    const claims = { aud: audience, exp: Math.floor(Date.now() / 1000) + 3600, sub: "mailto:test@example.org" };
    const text = `${part({ typ: "JWT", alg: "ES256" })}.${part(claims)}`;
    const signature = createSign("SHA256").update(text).sign({ key: privateKey, dsaEncoding: "ieee-p1363" });
    return `${text}.${signature.toString("base64url")}`;
  }

  async function push(subscription, payload) {
    const sender = createECDH("prime256v1");
    sender.generateKeys();
    const body = ece.encrypt(Buffer.from(JSON.stringify(payload)), {
      version: "aes128gcm", salt: randomBytes(16), privateKey: sender,
      dh: subscription.keys.p256dh, authSecret: subscription.keys.auth,
    });
    const response = await fetch(subscription.endpoint, {
      method: "POST", body,
      headers: {
        ttl: "60", urgency: "high", "content-encoding": "aes128gcm", "content-type": "application/octet-stream",
        authorization: `vapid t=${token(new URL(subscription.endpoint).origin)}, k=${vapid}`,
      },
    });
    if (!response.ok) throw new Error(`the push service answered ${response.status}: ${await response.text()}`);
  }

  return { vapid, push };
}
