# The control plane: one static binary, made beforehand by
#   CGO_ENABLED=0 go build -trimpath -o bin/pilot ./cmd/pilot
# and the roots and time zones of a distroless base, which has no shell.
ARG BASE=distroless/static:nonroot
FROM ${BASE}
COPY bin/pilot /usr/local/bin/pilot
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/pilot"]
CMD ["serve", "--kubernetes"]
