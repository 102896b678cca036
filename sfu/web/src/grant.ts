// How the page gets leave to enter a room: from the server, or from a link that carries a token.

/** What is needed to connect. */
export interface Grant {
  room: string;
  token: string;
  /** The public address of the cluster. */
  url: string;
}

/** Why no grant was given, in words for the person in front of the page. */
export class GrantRefused extends Error {}

/** Asks the server for a token. */
export async function requestGrant(room: string, userName: string): Promise<Grant> {
  let response: Response;
  try {
    response = await fetch('api/create-room', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ room_name: room, user_name: userName }),
    });
  } catch {
    throw new GrantRefused('The server cannot be reached. Check your connection and try again.');
  }
  if (!response.ok) {
    throw new GrantRefused(explainStatus(response.status));
  }
  const body = (await response.json()) as Record<string, unknown>;
  const { token, url } = body;
  if (typeof token !== 'string' || typeof url !== 'string') {
    throw new GrantRefused('The server answered in a form that this page does not know.');
  }
  return { room, token, url };
}

function explainStatus(status: number): string {
  switch (status) {
    case 400:
      return 'The server does not accept this room or name. Try a shorter one.';
    case 401:
    case 403:
    case 404:
      return 'This server admits only people who come with an invitation link.';
    case 429:
    case 503:
      return 'The server is busy. Try again in a moment.';
    default:
      return `The server failed to open the room (status ${status}).`;
  }
}

/** The grant of an invitation link (`#token=…`), which never leaves the browser before joining. */
export function grantOfLink(location: Location): Grant | undefined {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  const room = token === null ? undefined : roomOfToken(token);
  if (token === null || room === undefined) {
    return undefined;
  }
  return { room, token, url: new URL('.', location.href).origin };
}

/** The room that an access token opens; the server checks the signature, the page only shows it. */
function roomOfToken(token: string): string | undefined {
  const payload = token.split('.')[1];
  if (payload === undefined) {
    return undefined;
  }
  try {
    const base64 = payload.replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { video?: { room?: unknown } };
    const room = claims.video?.room;
    return typeof room === 'string' ? room : undefined;
  } catch {
    return undefined;
  }
}
