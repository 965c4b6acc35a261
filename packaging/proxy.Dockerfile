# What injected pods run: Envoy, pilot (made beforehand, as for
# pilot.Dockerfile), and for the init container iptables and ip.
ARG ENVOY=envoyproxy/envoy:distroless-v1.40.0
ARG BASE=debian:stable-slim
FROM ${ENVOY} AS envoy

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates iproute2 iptables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
COPY bin/pilot /usr/local/bin/pilot
# The user that capture leaves alone; istio-init says for itself that it is root.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot"]
