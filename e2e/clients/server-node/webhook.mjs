// Receives webhooks with LiveKit's server SDK. Writes its port, then one line of JSON for each
// event: what the SDK made of it with the right secret, with another, and with another body.
import { createServer } from 'node:http';

import { WebhookReceiver } from 'livekit-server-sdk';

const [key, secret] = process.argv.slice(2);
const receiver = new WebhookReceiver(key, secret);
const stranger = new WebhookReceiver(key, `${secret}-of-another`);

const refusal = async (promise) => promise.then(() => 'accepted', () => 'refused');

const server = createServer(async (request, response) => {
  request.setEncoding('utf8');
  let body = '';
  for await (const chunk of request) {
    body += chunk;
  }
  const authorization = request.headers.authorization;
  let line;
  try {
    const event = await receiver.receive(body, authorization);
    line = {
      event: event.event,
      id: event.id,
      room: event.room?.name ?? '',
      participant: event.participant?.identity ?? '',
      track: event.track?.sid ?? '',
      contentType: request.headers['content-type'],
      withAnotherSecret: await refusal(stranger.receive(body, authorization)),
      withAnotherBody: await refusal(receiver.receive(`${body} `, authorization)),
    };
  } catch (error) {
    line = { event: `error: ${error}` };
  }
  console.log(JSON.stringify(line));
  response.end();
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
