#include "idistill/model/place.hpp"

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace idistill::model {

Place place_of(const options::RunSettings& run) {
    return {run.device == options::DeviceKind::cuda ? c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->getDevice()
                                                    : torch::Device(torch::kCPU),
            run.dtype == options::DtypeKind::bf16 ? torch::kBFloat16 : torch::kFloat32};
}

}  // namespace idistill::model
