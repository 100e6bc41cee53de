# syntax=docker/dockerfile:1
# A static binary on an image that holds certificates, time zones and a user, and nothing to run.

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
# With .git, from which the binary takes its version.
COPY . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w" -o /out/webhooks . \
    && mkdir /out/data

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Intervengine Webhooks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION
COPY --from=build /out/webhooks /webhooks
# A volume mounted here starts with this owner, so the embedded database can be written.
COPY --from=build --chown=65532:65532 /out/data /data
ENV LISTEN_ADDR=:8080 DATA_DIR=/data
USER 65532:65532
EXPOSE 8080
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --start-interval=1s --retries=3 CMD ["/webhooks", "healthcheck"]
ENTRYPOINT ["/webhooks"]
CMD ["serve"]
