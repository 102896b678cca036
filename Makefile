# LiveCluster: everything that is run from a checkout. `make help` lists it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
CLUSTER := $(CARGO) run --quiet --package e2e --bin cluster --
STAGE := .ci/stage
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
# Each corpus belongs to a target of the same name.
FUZZ_CORPORA := $(wildcard */core/fuzz/corpus/*)
FUZZ_SECONDS ?= 60
# What no core may pull in: cores decide, shells do.
SHELL_CRATES := tokio|redis|axum|kube|hyper|reqwest
CORES := contract sfu-core turn-server-core

WEB := sfu/web
WEB_SOURCES := $(wildcard $(WEB)/src/* $(WEB)/src/*/*) $(WEB)/build.mjs $(WEB)/package.json $(WEB)/package-lock.json

.PHONY: help run dev test check test-full bench images generate cluster-up cluster-down doctor
.PHONY: fuzz web build-tools programs format lints units arrows generated licenses e2e-tests e2e-long

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: images ## a cluster, the chart, a LiveCluster and the URL of a room
	@$(STAGE) "cluster and demo" $(CLUSTER) demo

dev: web build-tools ## one media node without Kubernetes or Redis: http://localhost:7880
	$(CARGO) run --release --package sfu -- --dev

test: check e2e-tests ## everything: all checks, then real clients on a real cluster

check: web format lints units arrows generated licenses ## format, lints, unit tests, dependency rules, generated files, licences

test-full: test e2e-long fuzz ## the long suites as well: more faults, a minute of fuzzing for each target

bench: programs ## media path and TURN server beside others, in target/bench (root, Go, an hour)
	@$(CLUSTER) install tests
	@$(STAGE) "build the benchmarks" $(CARGO) build --release --package sfu-bench --package turn-bench
	@target/release/forwarding-bench
	@target/release/turn-bench
	@$(STAGE) "benchmarks by stage" $(CARGO) bench --package sfu-core --bench forwarding

images: programs ## archives of all container images, in target/images
	@$(STAGE) "images" $(CLUSTER) images

generate: ## write the generated files anew: the CRD and its reference
	@$(STAGE) "generate" $(CARGO) run --quiet --package crds --bin generate

cluster-up: ## a three-node Kubernetes cluster; one that is up stays
	@$(CLUSTER) up

cluster-down: ## take the cluster down; nothing is left behind
	@$(CLUSTER) down

doctor: ## what this machine has and lacks, and how long a cold start takes
	@$(CLUSTER) doctor

# ---- parts of the above

web: $(WEB)/dist/index.html

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json
	@$(CLUSTER) install web
	@cd $(WEB) && ../../$(STAGE) "install the page's packages" npm ci --no-audit --no-fund
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(WEB_SOURCES)
	@cd $(WEB) && ../../$(STAGE) "bundle the page" npm run --silent build
	@touch $@

build-tools:
	@$(CLUSTER) install build

programs: web build-tools
	@$(STAGE) "build the programs" $(CARGO) build --release --package sfu --package operator --package turn-server

format:
	@$(STAGE) "format" $(CARGO) fmt --all --check

lints: web build-tools
	@$(STAGE) "lints" $(CARGO) clippy --quiet --workspace --all-targets --features e2e/long -- -D warnings

units: web build-tools
	@$(CLUSTER) install tests
	@$(STAGE) "unit tests" $(CARGO) test --no-fail-fast --workspace --exclude e2e
	@$(STAGE) "unit tests of the harness" $(CARGO) test --package e2e --lib

arrows:
	@$(STAGE) "dependency arrows" $(MAKE) arrows-of-cores arrows-between-crates

.PHONY: arrows-of-cores arrows-between-crates
arrows-of-cores:
	@for core in $(CORES); do \
		found=$$($(CARGO) tree --package $$core --edges normal --prefix none | grep -E '^($(SHELL_CRATES)) '); \
		if [ -n "$$found" ]; then echo "$$core must not depend on: $$found"; exit 1; fi; \
	done

# crate:what it must not depend on
arrows-between-crates:
	@for arrow in contract:crds contract:sfu-core contract:operator crds:contract crds:sfu-core \
			sfu-core:crds operator:sfu operator:sfu-core sfu:crds sfu:operator e2e:sfu e2e:operator \
			operator:turn-server sfu:turn-server e2e:turn-server turn-server:crds; do \
		from=$${arrow%%:*}; to=$${arrow#*:}; \
		if $(CARGO) tree --package $$from --edges normal --prefix none | grep -qE "^$$to v"; then \
			echo "$$from must not depend on $$to"; exit 1; fi; \
	done

generated: generate
	@$(STAGE) "generated files unchanged" git diff --exit-code -- crds/livecluster.yaml charts/livecluster/templates/crd.yaml docs/api.md

licenses:
	@command -v cargo-deny >/dev/null || \
		$(STAGE) "install cargo-deny" $(CARGO) install --quiet --locked cargo-deny --version $(DENY_VERSION)
	@$(STAGE) "licences and sources" $(CARGO) deny --log-level error check bans licenses sources

# What a run finds stays under fuzz/target; inputs worth keeping are added to fuzz/corpus by hand.
fuzz: build-tools
	@command -v cargo-fuzz >/dev/null || \
		$(STAGE) "install cargo-fuzz" $(CARGO) install --quiet --locked cargo-fuzz --version $(FUZZ_VERSION)
	@for corpus in $(FUZZ_CORPORA); do \
		core=$${corpus%%/fuzz/*}; target=$${corpus##*/}; \
		mkdir -p $$core/fuzz/target/corpus/$$target; \
		(cd $$core && ../../$(STAGE) "fuzz $$core $$target" $(CARGO) fuzz run --sanitizer none $$target \
			fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=1024) || exit 1; \
	done

e2e-tests: images
	@$(STAGE) "operator and control plane" $(CLUSTER) control-plane \
		$(CARGO) test --package operator --test control_plane -- --skip long::
	@$(STAGE) "cluster" $(CLUSTER) up
	@$(STAGE) "load images" $(CLUSTER) load
	@eval "$$($(CLUSTER) env)" && LIVECLUSTER_TEST_KUBECONFIG="$$KUBECONFIG" LIVECLUSTER_E2E=1 \
		$(STAGE) "operator and API server" $(CARGO) test --package operator --test apiserver
	@$(STAGE) "end-to-end tests" $(CARGO) test --no-fail-fast --package e2e --tests

# On the cluster that the tests before have left.
e2e-long: e2e-tests
	@$(STAGE) "long end-to-end tests" $(CARGO) test --package e2e --features long --test 'long_*'
	@$(STAGE) "operator and control plane, long" $(CLUSTER) control-plane \
		$(CARGO) test --package operator --test control_plane -- --nocapture long::
