# SPDX-License-Identifier: LGPL-2.1-or-later
#
# An image with hibprep in it. What depends on the machine is left for its first boot: the swap file,
# which is as large as that machine's memory asks for, and the speeds that are measured there.
#
#   packer init . && packer build -var package=../../dist/hibprep_0.1.0_all.deb .

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "package" {
  type        = string
  description = "The Debian package, as `make deb` leaves it in dist/."
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = "m7i.large"
  ssh_username  = "admin"
  ami_name      = "debian-13-hibprep-{{timestamp}}"

  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-13-amd64-*"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
  }

  # EC2 hibernates to an encrypted root volume alone, with room for the memory of the largest instance
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 24
    volume_type           = "gp3"
    encrypted             = true
    delete_on_termination = true
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = var.package
    destination = "/tmp/hibprep.deb"
  }

  provisioner "file" {
    sources     = ["${path.root}/50-cloud.toml", "${path.root}/hibprep-swap.service"]
    destination = "/tmp/"
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} sh -eux {{ .Path }}"
    inline = [
      "cloud-init status --wait || true",
      "install -D -m 0644 /tmp/50-cloud.toml /etc/hibprep/hibprep.toml.d/50-cloud.toml",
      "install -D -m 0644 /tmp/hibprep-swap.service /etc/systemd/system/hibprep-swap.service",
      "apt-get update --quiet",
      "DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes /tmp/hibprep.deb prometheus-node-exporter python3-prometheus-client",
      "hibprep config check",
      "systemctl enable hibprep.service hibprep-swap.service",
    ]
  }

  # Last: what the daemon has kept since it was installed is of this machine, and of no other.
  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} sh -eux {{ .Path }}"
    inline = [
      "systemctl stop hibprep.service",
      "rm -rf /var/lib/hibprep/rates.json /var/lib/hibprep/history.jsonl /var/lib/hibprep/notices.json",
      "rm -f /tmp/hibprep.deb /tmp/50-cloud.toml /tmp/hibprep-swap.service",
      "apt-get clean",
      "cloud-init clean --logs",
    ]
  }
}
