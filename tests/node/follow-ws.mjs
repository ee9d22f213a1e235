// Follows the journal with graphql-ws and prints each batch as a line of JSON. Goes on after the last cursor whenever the
// connection is lost. Argument: the gateway's URL. Runs until it is killed.
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const url = process.argv[2];
const client = createClient({
  url: url.replace(/^http/, 'ws') + '/graphql',
  webSocketImpl: WebSocket,
  retryAttempts: 0,
});
const query = `subscription ($from: StartPosition!) {
  events(from: $from, batch: 10) { cursor caughtUp events { id position type } }
}`;

let from = { origin: 'BEGINNING' };
while (true) {
  try {
    for await (const { data, errors } of client.iterate({ query, variables: { from } })) {
      if (errors) throw new Error(JSON.stringify(errors));
      const { cursor, caughtUp, events } = data.events;
      from = { cursor };
      console.log(JSON.stringify({ caughtUp, positions: events.map((event) => Number(event.position)) }));
    }
  } catch (error) {
    console.error(error.message ?? error.reason ?? error);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
