{
  # node-gyp's build of the addon: build/Release/vmring.node. CMakeLists.txt builds the same sources with the same flags.
  'targets': [
    {
      'target_name': 'vmring',
      'sources': [
        '<!@(node -p "[\'native/addon\',\'native/linux\'].flatMap(d=>fs.readdirSync(d).filter(f=>f.endsWith(\'.cc\')).sort().map(f=>d+\'/\'+f)).join(\' \')")',
      ],
      'include_dirs': ['native'],
      'defines': ['NAPI_VERSION=8', 'NAPI_CPP_EXCEPTIONS'],
      'cflags!': ['-fno-exceptions', '-O3', '-Wno-unused-parameter'],
      # The headers of other people are system headers, so that our warnings stay ours.
      'cflags': [
        '-isystem<(module_root_dir)/<!(node -p "require(\'node-addon-api\').include_dir")',
        '-isystem<(node_root_dir)/include/node',
        '-fvisibility=hidden',
      ],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20', '-O3'],
      'cflags_cc': ['-std=c++20', '-O2', '-fexceptions', '-pthread', '-Wall', '-Wextra', '-Wshadow'],
      # nodelete: the fault handler and the heartbeat thread outlive the worker that loaded the addon.
      'ldflags': ['-pthread', '-Wl,-z,relro,-z,now', '-Wl,-z,nodelete'],
    },
  ],
}
