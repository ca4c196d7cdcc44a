#!/usr/bin/env bash
# Makes what the service needs in a Google Cloud project, once, as an owner of the project. What is there is left as it is:
# if a step fails, run it again. The database takes ten minutes.
#
#   deploy/setup.sh shop-prod europe-west2
#   deploy/setup.sh shop-prod europe-west2 acme/shop    # GitHub Actions may deploy from the branch main of acme/shop
set -euo pipefail
cd "$(dirname "$0")/.."
: "${2:?usage: deploy/setup.sh PROJECT REGION}"
PROJECT=$1 REGION=$2
RUN=project-name-run@$PROJECT.iam.gserviceaccount.com
PUSH=project-name-push@$PROJECT.iam.gserviceaccount.com
DEPLOY=project-name-deploy@$PROJECT.iam.gserviceaccount.com
# [fastapi]
WEB=project-name-web@$PROJECT.iam.gserviceaccount.com
# [/fastapi]
export CLOUDSDK_CORE_PROJECT=$PROJECT

there() { "$@" >/dev/null 2>&1; }
account() { there gcloud iam service-accounts describe "$1@$PROJECT.iam.gserviceaccount.com" || gcloud iam service-accounts create "$1" --display-name "$2"; }
on_project() { gcloud projects add-iam-policy-binding "$PROJECT" --member "serviceAccount:$1" --role "$2" --condition None >/dev/null; }
on_account() { gcloud iam service-accounts add-iam-policy-binding "$1" --member "$2" --role "$3" >/dev/null; }
setting() { grep -q "^$1=" receiver.env || echo "$1=$2" >>receiver.env; }

if grep -q '^GCP_PROJECT_ID=' receiver.env && ! grep -q "^GCP_PROJECT_ID=$PROJECT\$" receiver.env; then
  echo "receiver.env is for another project; remove its lines from GCP_PROJECT_ID on, and run this again" >&2
  exit 2
fi

echo "== APIs and the repository of images"
gcloud services enable run.googleapis.com pubsub.googleapis.com cloudscheduler.googleapis.com sqladmin.googleapis.com \
  secretmanager.googleapis.com artifactregistry.googleapis.com servicenetworking.googleapis.com compute.googleapis.com \
  iam.googleapis.com iamcredentials.googleapis.com sts.googleapis.com cloudresourcemanager.googleapis.com
there gcloud artifacts repositories describe project-name --location "$REGION" ||
  gcloud artifacts repositories create project-name --repository-format docker --location "$REGION"

echo "== accounts: the service, the one in the tokens of pushes, the pipeline"
account project-name-run "project_name: the service"
account project-name-push "project_name: pushes"
account project-name-deploy "project_name: the pipeline"
on_project "$RUN" roles/pubsub.publisher
for role in roles/run.admin roles/pubsub.admin roles/cloudscheduler.admin roles/browser; do
  on_project "$DEPLOY" "$role"
done
gcloud artifacts repositories add-iam-policy-binding project-name --location "$REGION" \
  --member "serviceAccount:$DEPLOY" --role roles/artifactregistry.writer >/dev/null
on_account "$RUN" "serviceAccount:$DEPLOY" roles/iam.serviceAccountUser
on_account "$PUSH" "serviceAccount:$DEPLOY" roles/iam.serviceAccountUser
on_account "$PUSH" "serviceAccount:$DEPLOY" roles/iam.serviceAccountAdmin
# [fastapi]
account project-name-web "project_name: the web application"
on_project "$WEB" roles/pubsub.publisher
on_account "$WEB" "serviceAccount:$DEPLOY" roles/iam.serviceAccountUser
# [/fastapi]

echo "== a database without a public address"
there gcloud compute addresses describe google-managed-services-default --global ||
  gcloud compute addresses create google-managed-services-default --global --purpose VPC_PEERING --prefix-length 16 --network default
test -n "$(gcloud services vpc-peerings list --service servicenetworking.googleapis.com --network default --format 'value(network)')" ||
  gcloud services vpc-peerings connect --service servicenetworking.googleapis.com \
    --ranges google-managed-services-default --network default
there gcloud sql instances describe project-name ||
  gcloud sql instances create project-name --database-version POSTGRES_17 --edition enterprise --tier db-custom-1-3840 \
    --region "$REGION" --network default --no-assign-ip --ssl-mode ENCRYPTED_ONLY
there gcloud sql databases describe project_name --instance project-name ||
  gcloud sql databases create project_name --instance project-name
there gcloud secrets describe project-name-db-password ||
  openssl rand -hex 24 | tr -d '\n' | gcloud secrets create project-name-db-password --replication-policy automatic --data-file=-
gcloud secrets add-iam-policy-binding project-name-db-password \
  --member "serviceAccount:$RUN" --role roles/secretmanager.secretAccessor >/dev/null
# [fastapi]
# The application logs in as the receiver does. To give it a role of its own, see "Put a web application beside it" in
# the receiver's documentation.
gcloud secrets add-iam-policy-binding project-name-db-password \
  --member "serviceAccount:$WEB" --role roles/secretmanager.secretAccessor >/dev/null
# [/fastapi]
test -n "$(gcloud sql users list --instance project-name --filter name=project_name --format 'value(name)')" ||
  gcloud sql users create project_name --instance project-name \
    --password "$(gcloud secrets versions access latest --secret project-name-db-password)"

echo "== receiver.env"
NUMBER=$(gcloud projects describe "$PROJECT" --format 'value(projectNumber)')
ADDRESS=$(gcloud sql instances describe project-name --format 'value(ipAddresses[0].ipAddress)')
setting GCP_PROJECT_ID "$PROJECT"
setting SCHEDULER_LOCATION "$REGION"
setting CLOUD_RUN_SERVICE_URL "https://project-name-tasks-$NUMBER.$REGION.run.app"
setting TASKS_SERVICE_ACCOUNT "$PUSH"
setting DATABASE_URL "postgresql://project_name@$ADDRESS/project_name?sslmode=require"

if [ -n "${3:-}" ]; then
  echo "== GitHub Actions of $3 may sign in as the pipeline, without a key"
  there gcloud iam workload-identity-pools describe github --location global ||
    gcloud iam workload-identity-pools create github --location global --display-name GitHub
  there gcloud iam workload-identity-pools providers describe project-name-github --location global --workload-identity-pool github ||
    gcloud iam workload-identity-pools providers create-oidc project-name-github --location global --workload-identity-pool github \
      --issuer-uri https://token.actions.githubusercontent.com \
      --attribute-mapping google.subject=assertion.sub,attribute.repository=assertion.repository \
      --attribute-condition "assertion.repository == '$3' && assertion.ref == 'refs/heads/main'"
  POOL=projects/$NUMBER/locations/global/workloadIdentityPools/github
  on_account "$DEPLOY" "principalSet://iam.googleapis.com/$POOL/attribute.repository/$3" roles/iam.workloadIdentityUser
  echo "Tell GitHub (or in the repository: Settings, Secrets and variables, Actions, Variables):"
  echo "  gh variable set WORKLOAD_IDENTITY_PROVIDER --repo $3 --body $POOL/providers/project-name-github"
  echo "  gh variable set DEPLOY_SERVICE_ACCOUNT --repo $3 --body $DEPLOY"
fi
echo "done; commit receiver.env, then deploy with deploy/deploy.sh"
