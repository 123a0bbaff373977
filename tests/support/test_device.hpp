#pragma once
// A device for tests where there is no GPU (PyTorch's PrivateUse1). Its tensors lie at addresses that nothing may read
// or write; its operators are those of the CPU, on the memory behind them. So results are real, a host pointer into a
// tensor ends the program where it is used, and what a GPU would have to wait for is counted. As on a GPU, tensors of
// the host are refused among its own.

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>

namespace idistill::test {

/// The device, ready for tensors from the first call on. Not in a process that uses a GPU: PyTorch has one accelerator.
torch::Device test_device();

/// What the device was told to do since the process began.
struct DeviceWork {
    std::int64_t operators = 0;  ///< views left out
    std::int64_t to_device = 0;  ///< copies
    std::int64_t to_host = 0;
    /// What the host waited for, how often, by operator: numbers that come back, results whose size depends on numbers,
    /// copies from memory of the host that the device does not read by itself.
    std::map<std::string, std::int64_t> waits = {};

    [[nodiscard]] std::int64_t all_waits() const;
    [[nodiscard]] DeviceWork operator-(const DeviceWork& earlier) const;
};
DeviceWork device_work();

/// Memory that the device was asked for since the process began, in pieces.
std::int64_t device_allocations();
/// Memory runs out once, at the allocation of this number from now on; 0: not any more.
void run_out_of_memory_at(std::int64_t allocation);

/// A host pointer into a tensor of the device then names itself, with the calls that led to it, before the program
/// ends.
void explain_stray_pointers();

}  // namespace idistill::test
