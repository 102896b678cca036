// Ways by TURN: the transports that a client may use to its relay, and those that it uses.

/** How a client reaches its relay. */
export type RelayTransport = 'udp' | 'tcp' | 'tls';

const connections: RTCPeerConnection[] = [];
let wanted: RelayTransport | undefined;
let wantedHost: string | undefined;

/** From now on connections are made by relays alone, which are reached by this transport, and only at `host` if given. */
export function relayBy(transport: RelayTransport, host?: string): void {
  wanted = transport;
  wantedHost = host;
}

/** The kind and transport of the selected path of each connection that is up: `relay tls`. */
export async function paths(): Promise<string[]> {
  const up = connections.filter((connection) => connection.connectionState === 'connected');
  return (await Promise.all(up.map(pathsOf))).flat();
}

async function pathsOf(connection: RTCPeerConnection): Promise<string[]> {
  const report = await connection.getStats();
  const entries = [...report.values()] as Record<string, unknown>[];
  return entries.flatMap((entry) => {
    const pair = report.get(String(entry['selectedCandidatePairId']));
    const local = report.get(String(pair?.localCandidateId));
    return local === undefined ? [] : `${local.candidateType} ${local.relayProtocol ?? local.protocol}`;
  });
}

function isWanted(url: string): boolean {
  if (wantedHost !== undefined && url.split(':')[1] !== wantedHost) {
    return false;
  }
  return wanted === 'tls' ? url.startsWith('turns:') : url.startsWith('turn:') && url.endsWith(`=${wanted}`);
}

function restricted(configuration: RTCConfiguration): RTCConfiguration {
  if (wanted === undefined) {
    return configuration;
  }
  const all = configuration.iceServers ?? [];
  const iceServers = all
    .map((server) => ({ ...server, urls: [server.urls].flat().filter(isWanted) }))
    .filter((server) => server.urls.length > 0);
  return { ...configuration, iceServers, iceTransportPolicy: 'relay' };
}

window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(configuration: RTCConfiguration = {}) {
    super(restricted(configuration));
    connections.push(this);
  }

  override setConfiguration(configuration: RTCConfiguration = {}): void {
    super.setConfiguration(restricted(configuration));
  }
};
