//! The devices that a pipeline file names, and whether this build has them.

use super::spec::Spec;
use crate::error::Problem;
use crate::model::DeviceSpec;

/// The devices of `spec`, at least one; what is wrong with them goes to `problems`.
pub(super) fn of(spec: &Spec, problems: &mut Vec<Problem>) -> Vec<DeviceSpec> {
    let (one, several) = (spec.file.device, &spec.file.devices);
    if !spec.says(&["devices"]) {
        let devices = one.devices();
        problems.extend(not_built(devices[0]).map(|problem| problem.within(&["device"])));
        return devices;
    }
    let devices: Vec<DeviceSpec> = several.iter().flat_map(|choice| choice.devices()).collect();
    let mut problem = |problem: Problem| problems.push(problem.within(&["devices"]));
    let Some(first) = devices.first() else {
        problem(Problem::at("", "no device is named").help("name at least one, or leave `devices` out"));
        return one.devices();
    };
    if spec.says(&["device"]) {
        problem(Problem::at("", "the file has `device` as well").help("leave one of the two out"));
    }
    if let Some(other) = devices.iter().find(|device| device.kind() != first.kind()) {
        let message = format!("`{first}` and `{other}` are devices of two kinds, whose results differ by rounding");
        problem(Problem::at("", message).help("name devices of one kind"));
    }
    not_built(*first).into_iter().for_each(problem);
    devices
}

/// A device that this build cannot open.
fn not_built(device: DeviceSpec) -> Option<Problem> {
    let feature = device.missing_feature()?;
    let help = match device {
        DeviceSpec::Cuda(index) => {
            format!(
                "an NVIDIA GPU is `libtorch:cuda:{index}`, in a build with `--features tch`; this back end was never built"
            )
        }
        _ => format!("build with `--features {feature}`, as docs/backends.md says; `cpu` needs nothing"),
    };
    Some(Problem::at("", format!("this build cannot use the device `{device}`")).help(help))
}
