module e2e.tools/node-network

go 1.26.0
