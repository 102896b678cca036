// node-network is the pod network of the test cluster: on each node it writes the CNI
// configuration for the node's pod range, routes the other nodes' ranges to them and
// masquerades what leaves the pod network. It knows IPv4 and one flat layer-2 segment only.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
	// The node's own file system: its `ip` and `nft` are used, so the image needs none.
	nodeRoot   = "/node"
	cniFile    = nodeRoot + "/etc/cni/net.d/10-node-network.conflist"
	pollPeriod = time.Second
	// Nodes join one after another while the cluster starts; later, changes are rare.
	settledPeriod = 5 * time.Second
	settledAfter  = time.Minute
)

type node struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

func (n node) internalIPv4() string {
	for _, a := range n.Status.Addresses {
		if ip := net.ParseIP(a.Address); a.Type == "InternalIP" && ip != nil && ip.To4() != nil {
			return a.Address
		}
	}
	return ""
}

func main() {
	self, pods, services := os.Getenv("NODE_NAME"), os.Getenv("POD_SUBNET"), os.Getenv("SERVICE_SUBNET")
	client, err := apiClient()
	if err != nil {
		log.Fatal(err)
	}
	started, applied := time.Now(), map[string]string{}
	for {
		if err := converge(client, self, pods, services, applied); err != nil {
			log.Print(err)
		}
		if time.Since(started) > settledAfter {
			time.Sleep(settledPeriod)
		} else {
			time.Sleep(pollPeriod)
		}
	}
}

func apiClient() (*http.Client, error) {
	ca, err := os.ReadFile(serviceAccount + "/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}, nil
}

func listNodes(client *http.Client) ([]node, error) {
	// The token is rotated on disk, so it is read anew each time.
	token, err := os.ReadFile(serviceAccount + "/token")
	if err != nil {
		return nil, err
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequest(http.MethodGet, "https://"+host+"/api/v1/nodes", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("listing nodes: %s", response.Status)
	}
	var list struct {
		Items []node `json:"items"`
	}
	err = json.NewDecoder(response.Body).Decode(&list)
	return list.Items, err
}

// converge applies what differs from the last time; a node that restarts runs a new process.
func converge(client *http.Client, self, pods, services string, applied map[string]string) error {
	nodes, err := listNodes(client)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		address, cidr := n.internalIPv4(), n.Spec.PodCIDR
		if address == "" || cidr == "" || applied[cidr] == address {
			continue
		}
		if n.Metadata.Name == self {
			if err := masquerade(pods, services); err != nil {
				return err
			}
			err = writeConfiguration(cidr)
		} else {
			err = onNode(nil, "/usr/sbin/ip", "route", "replace", cidr, "via", address)
		}
		if err != nil {
			return err
		}
		applied[cidr] = address
		log.Printf("%s: %s at %s", n.Metadata.Name, cidr, address)
	}
	return nil
}

func writeConfiguration(cidr string) error {
	list := map[string]any{
		"cniVersion": "0.4.0",
		"name":       "node-network",
		"plugins": []any{
			map[string]any{
				"type": "ptp", "mtu": 1500, "ipMasq": false,
				"ipam": map[string]any{
					"type":    "host-local",
					"dataDir": "/run/cni-ipam-state",
					"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
					"ranges":  []any{[]any{map[string]any{"subnet": cidr}}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	// Renamed into place: the container runtime must never read half a file.
	partial := filepath.Join(filepath.Dir(cniFile), ".node-network.partial")
	if err := os.WriteFile(partial, text, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, cniFile)
}

func masquerade(pods, services string) error {
	rules := fmt.Sprintf(`table ip node-network
delete table ip node-network
table ip node-network {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr %s ip daddr != { %s, %s } masquerade
  }
}
`, pods, pods, services)
	return onNode([]byte(rules), "/usr/sbin/nft", "-f", "-")
}

func onNode(input []byte, program string, arguments ...string) error {
	command := exec.Command(program, arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: nodeRoot}
	command.Dir = "/"
	command.Stdin = bytes.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, output)
	}
	return nil
}
