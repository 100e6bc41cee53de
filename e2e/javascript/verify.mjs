// Verifies one request with the reference library: {secret, headers, body} on standard input.
// Exits with 0 and the event's type where it is genuine, else with 1 and the reason.
import { Webhook } from "standardwebhooks";

let text = "";
for await (const chunk of process.stdin) text += chunk;
const { secret, headers, body } = JSON.parse(text);
try {
  console.log(new Webhook(secret).verify(body, headers).type);
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
