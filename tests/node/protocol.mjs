// Opens a WebSocket for each case, says what the case says, and prints the messages and the close code that come back.
// Arguments: the gateway's URL. Standard input: a list of {protocol, origin, says, until}: a number of messages, or the type of
// the last one.
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';

const url = process.argv[2].replace(/^http/, 'ws') + '/graphql';

function play({ protocol = 'graphql-transport-ws', origin, says = [], until }) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, protocol, { origin });
    const heard = [];
    const end = (close) => resolve({ heard, close });
    socket.on('unexpected-response', (_, response) => end(response.statusCode));
    socket.on('open', () => says.forEach((said) => socket.send(typeof said === 'string' ? said : JSON.stringify(said))));
    socket.on('message', (text) => {
      heard.push(JSON.parse(text));
      if (heard.length === until || heard.at(-1).type === until) socket.close(1000);
    });
    socket.on('close', end);
    setTimeout(end, 20_000, 0);
    socket.on('error', () => {});
  });
}

const cases = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await Promise.all(cases.map(play))));
process.exit(0);
