// Runs the audit suite of graphql-http against a server, with the key in WEBHOOKS_KEY:
//
//   node audit.mjs URL
//
// It prints what is not "ok", and exits 1 where that is an error or a warning. Notices are for what
// the specification leaves open ("MAY").
import { auditServer } from "graphql-http";

const url = process.argv[2];
const authorization = `Bearer ${process.env.WEBHOOKS_KEY}`;
const results = await auditServer({
  url,
  fetchFn: (input, init) => fetch(input, { ...init, headers: { ...init?.headers, authorization } }),
});
const counts = {};
for (const r of results) {
  counts[r.status] = (counts[r.status] ?? 0) + 1;
  if (r.status !== "ok") console.log(`${r.status} ${r.id} ${r.name}: ${r.reason}`);
}
console.log(JSON.stringify({ total: results.length, ...counts }));
process.exit(counts.error || counts.warn || !counts.ok ? 1 : 0);
