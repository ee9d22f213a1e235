// Runs the GraphQL-over-HTTP audit of graphql-http against a URL. Exit 1 unless every check is ok.
import { auditServer } from 'graphql-http';

const results = await auditServer({ url: process.argv[2] });
const bad = results.filter((result) => result.status !== 'ok');
for (const { id, name, status, reason } of bad) console.error(`${status} ${id} ${name}: ${reason}`);
console.log(`${results.length - bad.length} of ${results.length} ok`);
process.exit(bad.length === 0 && results.length > 50 ? 0 : 1);
