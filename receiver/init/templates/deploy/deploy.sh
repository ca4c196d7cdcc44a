#!/usr/bin/env bash
# Brings this commit into the cloud: image, tables, topics, service, doctor. Run it as often as you like.
# It needs gcloud, Docker, and this project installed (pip install .); whoever runs it is signed in twice, for gcloud and
# for Python: gcloud auth login && gcloud auth application-default login
set -euo pipefail
cd "$(dirname "$0")/.."
set -a
# shellcheck source=../receiver.env
. ./receiver.env
set +a
: "${DATABASE_URL:?is not in receiver.env; run deploy/setup.sh first}"

REGION=$SCHEDULER_LOCATION
IMAGE=$REGION-docker.pkg.dev/$GCP_PROJECT_ID/project-name/project-name:$(date -u +%Y%m%d-%H%M%S)
SETTINGS=$(grep -E '^[A-Z]' receiver.env | paste -sd '|' -)
# `^|^` parts the variables at `|`: a setting may hold commas.
common=(--image "$IMAGE" --project "$GCP_PROJECT_ID" --region "$REGION"
  --network default --subnet default --vpc-egress private-ranges-only
  --set-env-vars "^|^$SETTINGS" --set-secrets DATABASE_PASSWORD=project-name-db-password:latest)
service=("${common[@]}" --service-account "project-name-run@$GCP_PROJECT_ID.iam.gserviceaccount.com")

echo "== image"
receiver check
gcloud auth configure-docker "$REGION-docker.pkg.dev" --quiet
docker build --tag "$IMAGE" .
docker push "$IMAGE"

echo "== migrate: before the new revision; the one that serves now still works, unless the changelog says otherwise"
gcloud run jobs deploy project-name-migrate "${service[@]}" \
  --command receiver --args migrate --max-retries 1 --execute-now --wait

echo "== provision: the topics are there before the new revision enqueues"
receiver provision --apply --yes --grant

echo "== deploy: the receiver checks the token of each push itself"
gcloud run deploy project-name-tasks "${service[@]}" --allow-unauthenticated --ingress internal \
  --cpu 1 --memory 512Mi --concurrency 80 --timeout 600 --min-instances 0 --max-instances 8 --cpu-throttling
# [fastapi]
gcloud run deploy project-name-web "${common[@]}" \
  --service-account "project-name-web@$GCP_PROJECT_ID.iam.gserviceaccount.com" --allow-unauthenticated --max-instances 4 \
  --command uvicorn --args project_name.web:app,--host=0.0.0.0,--port=8080
# [/fastapi]

echo "== doctor: from here, then from inside the network, where the database is"
receiver doctor --skip database || test $? -eq 1 # 1: warnings only
gcloud run jobs deploy project-name-doctor "${service[@]}" \
  --command receiver --args doctor,--max-instances=8,--skip=pubsub,--skip=scheduler,--skip=roles,--skip=service \
  --max-retries 0 --execute-now --wait
