# syntax=docker/dockerfile:1
# The gateway alone: no shell, no package manager, nobody's root. What it writes is the journal; with one on PostgreSQL the
# root file system can be read-only, with one on SQLite mount a volume at /var/lib/postern.
#
#   docker build -t postern .
#   docker run --read-only -v "$PWD/postern.toml:/etc/postern/postern.toml:ro" -v postern:/var/lib/postern -p 8080:8080 postern

FROM rust:1.95-bookworm AS build
WORKDIR /build

# Dependencies first, as a layer that only a change of Cargo.lock makes anew.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src && echo 'fn main() {}' >src/main.rs && echo >src/lib.rs \
    && sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && cargo build --profile dist --locked --bin postern

COPY . .
# Cargo compares times, and a file of the context may be older than what was built of the empty ones above.
RUN find src -type f -exec touch {} + \
    && cargo build --profile dist --locked --bin postern \
    && install -d -o 65532 -g 65532 -m 0750 /root-fs/var/lib/postern

FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Postern" \
    org.opencontainers.image.description="Domain events from existing event stores, out as an Atom feed, GraphQL and signed webhooks" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"

COPY --from=build /build/target/dist/postern /usr/bin/postern
COPY --from=build --chown=65532:65532 /root-fs/var/lib/postern /var/lib/postern

USER 65532:65532
WORKDIR /var/lib/postern
# Defaults that fit a container; a variable beats the file. A public address needs clients in the configuration.
ENV POSTERN_SERVER__LISTEN=0.0.0.0:8080
EXPOSE 8080
# Whether it lives, not whether its database does: who restarts what is unhealthy would only make an outage longer.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s \
    CMD ["/usr/bin/postern", "healthcheck", "--config", "/etc/postern/postern.toml"]
ENTRYPOINT ["/usr/bin/postern"]
CMD ["serve", "--config", "/etc/postern/postern.toml"]
