# Build:       docker build -t portero .
# First time:  docker run --rm -v portero:/data portero init
# Run:         docker run -v portero:/data -p 8080:8080 portero
# /data holds portero.toml (with listen = "0.0.0.0:8080"), rules/, the journal and the keys.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock portero.toml ./
COPY src ./src
COPY rules ./rules
COPY benches ./benches
RUN cargo build --release --locked --bin portero

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin portero \
 && install -d -o portero -g portero /data
COPY --from=build /src/target/release/portero /usr/local/bin/portero
USER portero
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["portero", "health"]
ENTRYPOINT ["portero"]
CMD ["run"]
